"""Health, readiness and metrics: what somebody who watches the control plane sees."""

import asyncio
import re
from datetime import timedelta
from typing import Final

import pytest

from enjoin.control.health import PROBE, WRITE_WITHIN_S
from enjoin.errors import StoreUnavailable
from enjoin.model.execution import Event
from enjoin.store.base import Transaction
from tests.tools import REPOSITORY
from tests.unit.api.plane import HandClock, Plane

ROW: Final = re.compile(r"^\| `(?P<name>enjoin_\w+)` \| (?P<kind>\w+) \| (?P<labels>[^|]*)\|", re.MULTILINE)
A_SECOND: Final = timedelta(seconds=1)


async def metrics(plane: Plane) -> dict[str, float]:
    """Return every sample, a second after whatever was there before."""
    assert isinstance(plane.services.clock, HandClock)
    plane.services.clock.advance(A_SECOND)
    answer = await plane.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


async def test_alive_without_token(plane: Plane) -> None:
    """
    Probes need neither a token nor an api-version.
    """
    alive, ready = await plane.http.get("/healthz"), await plane.http.get("/readyz/")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_not_ready_when_stopping(plane: Plane) -> None:
    """
    A control plane that was asked to end is alive and not ready.
    """
    plane.services.stopping.set()
    answer = await plane.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"] == {"code": "ServiceUnavailable", "message": "The control plane is stopping."}
    assert answer.headers["retry-after"] == "1"
    assert (await plane.http.get("/healthz")).status_code == 200


async def test_not_ready_when_the_database_refuses(
    plane: Plane, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Readiness follows the database: a write that fails is a 503 whose text tells no path, and it mends by itself.
    """

    async def full(*_: object) -> None:
        text = "The database /var/somewhere cannot be used now (database or disk is full)."
        raise StoreUnavailable(text)

    with monkeypatch.context() as patch:
        patch.setattr(plane.services.store, "write", full)
        answer = await plane.http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "The database cannot be written; the log of the control plane says why."
    clock.advance(A_SECOND)
    assert (await plane.http.get("/readyz")).status_code == 200


async def test_not_ready_when_the_database_hangs(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A database that does not answer is not ready, and the probe is answered within a bounded time.
    """

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("enjoin.control.health.WRITE_WITHIN_S", 0.01)
    monkeypatch.setattr(plane.services.store, "write", hang)
    answer = await plane.http.get("/readyz")
    assert answer.status_code == 503
    assert "did not take a write within" in answer.json()["error"]["message"]
    assert WRITE_WITHIN_S < 30


async def test_probes_are_shared(plane: Plane, clock: HandClock) -> None:
    """
    A hundred probes at once, and more within the second, cost one write: strangers cannot keep the disk busy.
    """

    async def probed(tx: Transaction) -> str | None:
        return await tx.get_setting(PROBE)

    await asyncio.gather(*(plane.http.get("/readyz") for _ in range(100)))
    first = await plane.services.store.read(probed)
    before = await metrics(plane)
    await asyncio.gather(*(plane.http.get("/readyz") for _ in range(100)))
    assert await plane.services.store.read(probed) != first, "a second passed between the two hundreds"
    after = await metrics(plane)
    assert after["enjoin_store_write_seconds_count"] - before["enjoin_store_write_seconds_count"] == 1
    assert clock.now() > clock.now() - A_SECOND


async def test_a_command_is_counted(plane: Plane) -> None:
    """
    One command that is accepted, started and over moves each counter once; what is open is shown while it is.
    """
    machine = await plane.machine()
    before = await metrics(plane)
    session = await plane.connect(machine)
    assert (await plane.put()).status_code == 201
    execution_id = await plane.execution_id()
    waiting = await metrics(plane)
    assert waiting["enjoin_agents_connected"] == 1
    assert waiting["enjoin_channel_queue_messages"] == 1
    assert waiting['enjoin_executions_open{state="Pending"}'] == 1
    await plane.report(session, execution_id, Event.STARTED)
    running = await metrics(plane)
    assert running['enjoin_executions_open{state="Pending"}'] == 0
    assert running['enjoin_executions_open{state="Running"}'] == 1
    await plane.output(session, execution_id, b"hello")
    await plane.output(session, execution_id, b"hello, you")  # the first five bytes again
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    after = await metrics(plane)
    assert after['enjoin_executions_open{state="Running"}'] == 0

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown('enjoin_executions_total{state="Pending"}') == 1
    assert grown('enjoin_executions_total{state="Running"}') == 1
    assert grown('enjoin_executions_total{state="Succeeded"}') == 1
    assert grown('enjoin_executions_total{state="Failed"}') == 0
    assert grown("enjoin_dispatch_seconds_count") == 1
    assert grown("enjoin_dispatch_seconds_sum") == pytest.approx(1.0)
    assert grown("enjoin_output_received_bytes_total") == 10
    puts = [name for name in after if 'method="PUT"' in name and '/runCommands/{command}",status="201"' in name]
    assert sum(grown(name) for name in puts) == 1


async def test_strangers_make_no_series(plane: Plane) -> None:
    """
    Whatever paths and verbs are asked for, the number of series stays what it is.
    """
    await plane.http.request("BREW", "/nothing")
    await metrics(plane)
    before = await metrics(plane)
    for number in range(50):
        await plane.http.request(f"BREW{number}", f"/nothing/{number}")
    assert before.keys() == (await metrics(plane)).keys()


async def test_what_is_undone_is_not_counted(plane: Plane) -> None:
    """
    A write that is refused counts as a failure and as nothing else.
    """
    before = await metrics(plane)
    assert (await plane.put(body={"properties": {"source": {"script": "true"}}})).status_code == 404
    after = await metrics(plane)
    assert after['enjoin_executions_total{state="Pending"}'] == before['enjoin_executions_total{state="Pending"}']


async def test_page_is_true(plane: Plane) -> None:
    """
    docs/reference/metrics.md lists each metric with its type and its labels, and no other.
    """
    await metrics(plane)
    text = (await plane.http.get("/metrics")).text
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    page = (REPOSITORY / "docs/reference/metrics.md").read_text(encoding="utf-8")
    written = {match["name"]: match for match in ROW.finditer(page)}
    assert {name: match["kind"] for name, match in written.items()} == types
    for name, match in written.items():
        found = {
            label
            for labels in re.findall(rf"^{name}(?:_bucket)?\{{([^}}]*)\}}", text, re.MULTILINE)
            for label in re.findall(r'(\w+)="', labels)
        }
        assert found - {"le"} == set(re.findall(r"`(\w+)`", match["labels"])), name
