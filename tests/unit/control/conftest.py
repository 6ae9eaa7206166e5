"""A control plane in this process, on a real database, with a clock that the test moves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enjoin.testing import Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A server without machines."""
    async with Cluster(tmp_path) as cluster:
        yield cluster
