"""Requests made from our own OpenAPI description, right ones and almost right ones, against a real control plane."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from enjoin.api.app import TABLE
from enjoin.api.openapi import describe
from tests.acceptance.processes import ControlPlane, Fleet
from tests.conftest import REQUIRE_ALL

CASES: Final = 2400 if REQUIRE_ALL else 240  # over all operations
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
DOCUMENT: Final[dict[str, Any]] = json.loads(json.dumps(describe(TABLE)))
OPERATIONS: Final = sorted(  # what takes machines away comes last
    (
        (path, method)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    ),
    key=lambda operation: operation[1] == "delete" or operation[0].endswith("/{scale_set}/delete"),
)
KNOWN: Final[Mapping[str, list[str]]] = {  # what is there, so that requests get further than to a 404
    "group": ["enjoin", "ENJOIN", "nobody"],
    "machine": ["m1", "M1", "1", "é"],
    "command": ["c1", "C1", "c2", "c.3"],
    "scale_set": ["s1", "S1"],
    "generation": ["1", "2", "77"],
    "namespace": ["Microsoft.Compute", "microsoft.hybridcompute", "X"],
    "location": ["local", "elsewhere"],
    "document": ["RunShellScript"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with a machine of each kind, which never connect: nothing of this runs."""
    with Fleet(tmp_path_factory.mktemp("openapi")) as fleet:
        server = fleet.control_plane(env={"ENJOIN_LOG_LEVEL": "warning"})
        fleet.new_agent(server, "m1")
        fleet.new_agent(server, "m1", kind="vm")
        fleet.new_agent(server, "s1-1", kind="vmss:s1/1")
        yield server
        assert "Traceback" not in server.logs()


@pytest.fixture(scope="module")
def session(server: ControlPlane) -> Iterator[requests.Session]:
    """A client that is signed in."""
    connection = server.connection
    with requests.Session() as session:
        session.trust_env = False  # a bundle named in the environment would take the place of this one
        session.verify = connection["ca_file"]
        form = {
            "grant_type": "client_credentials",
            "client_id": connection["client_id"],
            "client_secret": connection["client_secret"],
            "scope": f"{connection['endpoint']}/.default",
        }
        answer = session.post(f"{connection['endpoint']}/adfs/oauth2/token", data=form, timeout=30)
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield session


@pytest.fixture(scope="module")
def schema(server: ControlPlane, session: requests.Session) -> Any:  # noqa: ANN401 - schemathesis's own
    """What the server says of itself, with names of things that are there."""
    document: dict[str, Any] = session.get(f"{server.endpoint}/enjoin/v1/openapi.json", timeout=30).json()
    parameters = document["components"]["parameters"]
    known = {**KNOWN, "subscription": [server.connection["subscription_id"]]}
    for name, values in known.items():
        if name in parameters:
            parameters[name]["schema"] = {"type": "string", "enum": values}
    parameters["query.follow"]["schema"] = {"type": "boolean", "enum": [False]}  # else nothing would end
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_served_as_described(
    server: ControlPlane,
    session: requests.Session,
    schema: Any,  # noqa: ANN401 - schemathesis's own
    path: str,
    method: str,
) -> None:
    """
    Whatever is asked, the answer has a status, a content type and a body that the description has, and is no 500.
    """
    operation = schema[path][method.upper()]

    @seed(1)
    @settings(
        max_examples=max(CASES // len(OPERATIONS), 2),
        suppress_health_check=list(HealthCheck),
        deadline=None,
        database=None,
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:  # noqa: ANN401 - schemathesis's own
        if case.headers is not None:
            case.headers = {name: value for name, value in case.headers.items() if name.lower() != "authorization"}
        case.call_and_validate(
            base_url=server.endpoint, session=session, checks=CHECKS, timeout=60, verify=session.verify
        )

    ask()
