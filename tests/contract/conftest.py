"""Every test of the contract runs on every database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enjoin.store.base import Store
from tests.contract.backends import BACKENDS


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """Name one database after the other."""
    name: str = request.param
    return name


@pytest.fixture
async def store(backend: str, tmp_path: Path) -> AsyncIterator[Store]:
    """Return an empty store, open."""
    opened = BACKENDS[backend](tmp_path)
    await opened.open()
    yield opened
    await opened.close()
