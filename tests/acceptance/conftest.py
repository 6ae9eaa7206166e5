"""One control plane, one Arc machine and one VM for all tests that only use them, as real processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.processes import Agent, ControlPlane, Fleet


@pytest.fixture(scope="session", autouse=True)
def _nobodys_variables() -> None:
    """Take away what would lead a client elsewhere: the person who runs the tests may use Enjoin or az."""
    for name in list(os.environ):
        if name.startswith(("ENJOIN_C", "AZURE_", "ARM_")) or name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            del os.environ[name]


@pytest.fixture(scope="session")
def session_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """What lives as long as the session."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def server(session_fleet: Fleet) -> ControlPlane:
    """A control plane that is left as it is: nobody stops it or deletes its machines."""
    return session_fleet.control_plane()


@pytest.fixture(scope="session")
def machine(session_fleet: Fleet, server: ControlPlane) -> Agent:
    """The Arc machine `arc1`, connected."""
    return session_fleet.agent(server, "arc1")


@pytest.fixture(scope="session")
def vm(session_fleet: Fleet, server: ControlPlane) -> Agent:
    """The virtual machine `vm1`, connected."""
    return session_fleet.agent(server, "vm1", kind="vm")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Servers and agents of one test's own, to be killed and restarted."""
    with Fleet(tmp_path) as fleet:
        yield fleet
