"""Fixtures of the API's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.api.plane import HandClock, Plane


@pytest.fixture
def clock() -> HandClock:
    """Noon, until the test says otherwise."""
    return HandClock()


@pytest.fixture
async def plane(tmp_path: Path, clock: HandClock) -> AsyncIterator[Plane]:
    """Bring up a control plane with an administrator signed in."""
    plane = await Plane.started(tmp_path, clock)
    yield plane
    await plane.stop()
