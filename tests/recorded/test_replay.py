"""Requests of clients that are not installed here, replayed as their sources say they send them.

The clients themselves were not run: what these tests show is that the server answers what those clients read.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from enjoin.control.sessions import Session
from enjoin.model.execution import Event
from enjoin.protocol.messages import CancelDone
from tests.unit.api.plane import HandClock, Plane

RECORDINGS = [
    pytest.param(json.loads(path.read_text(encoding="utf-8"))["steps"], id=path.stem)
    for path in sorted(Path(__file__).parent.glob("*.json"))
]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane with an administrator signed in."""
    plane = await Plane.started(tmp_path, HandClock())
    yield plane
    await plane.stop()


def found(body: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """Return what a dotted path leads to."""
    for name in path.split("."):
        body = body[name]
    return body


async def ask(plane: Plane, step: dict[str, Any], places: dict[str, str]) -> httpx.Response:
    """Send one recorded request."""
    headers = {} if step.get("anonymous") else {"Authorization": f"Bearer {plane.token}"}
    url = step["path"].format(**places)
    return await plane.http.request(
        step["method"], url, params=step.get("query"), json=step.get("body"), headers=headers
    )


async def go_on(plane: Plane, session: Session, what: str) -> None:
    """Do what the machine does before the client's next request."""
    waiting = await plane.services.store.read(lambda tx: tx.delivered_and_open(session.machine_id))
    if what == "the script ends":
        for execution in waiting:
            await plane.report(session, execution.id, Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    else:
        assert what == "the machine confirms"
        for order in await plane.services.store.read(lambda tx: tx.list_cancels(session.machine_id)):
            await plane.services.reports.apply(session, [CancelDone(execution_id=order.execution_id)])


@pytest.mark.parametrize("steps", RECORDINGS)
async def test_replay(plane: Plane, steps: list[dict[str, Any]]) -> None:
    """
    Each request gets the status, the headers and the values that its client goes on with.
    """
    session = await plane.connect(await plane.machine())
    places = {"vm": plane.path().removesuffix("/runCommands")}
    for step in steps:
        answer = await ask(plane, step, places)
        assert answer.status_code == step["status"], (step["what"], answer.text)
        assert [name for name in step.get("headers", []) if name not in answer.headers] == [], step["what"]
        for name in step.get("has", []):
            assert found(answer.json(), name), (step["what"], name)
        for name, value in step.get("equal", {}).items():
            assert found(answer.json(), name) == value, (step["what"], name)
        assert "hunter2" not in answer.text
        places |= {
            place: answer.headers[header]
            for place, header in (("operation", "azure-asyncoperation"), ("location", "location"))
            if header in answer.headers
        }
        if "then" in step:
            await go_on(plane, session, step["then"])
