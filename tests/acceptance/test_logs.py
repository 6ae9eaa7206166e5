"""One command can be followed through the logs of both sides, and the level is the operator's."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Fleet, run_enjoin, until

VARIABLE = "ENJOIN_LOG_LEVEL"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Processes of one test."""
    with Fleet(tmp_path) as fleet:
        yield fleet


def lines(log: str, event: str) -> list[Mapping[str, Any]]:
    """Return the lines of an event; each line is a JSON object, whatever its event."""
    found: list[Mapping[str, Any]] = [json.loads(line) for line in log.splitlines()]
    return [line for line in found if line["event"] == event]


def test_one_id_on_both_sides(fleet: Fleet) -> None:
    """
    The line of a PUT, those of the machine and that of the report have one correlation id; the client got it too.
    """
    server = fleet.control_plane()
    agent = fleet.agent(server, "m1")
    done = server.enjoin("run", "m1", "--name", "c1", "--protected", "HIDDEN=abc-the-secret", "--", "exit 3")
    assert done.returncode == 3
    (report,) = until(lambda: lines(server.logs(), "report"), "the end is in the log")
    (put,) = (line for line in lines(server.logs(), "request") if line["method"] == "PUT")
    assigned, ended = lines(agent.logs(), "assigned"), lines(agent.logs(), "ended")
    ids = {line["correlation_id"] for line in (put, report, *assigned, *ended)}
    assert ids == {put["request_id"]}, "a client that names no correlation gets the request's own id"
    assert len({line["execution"] for line in (report, *assigned, *ended)}) == 1
    assert (report["state"], report["exit_code"], report["reported"]) == ("Failed", 3, "exited-nonzero")
    assert (put["status"], put["route"].rpartition("/")[2]) == (201, "{command}")
    assert put["principal"]
    assert put["duration_ms"] > 0
    assert put["client_request_id"]
    assert "abc-the-secret" not in server.logs() + agent.logs()
    assert "exit 3" not in server.logs() + agent.logs()


def test_nothing_of_a_token_request(fleet: Fleet) -> None:
    """
    Sign-in, with a secret in the body, and a secret in a query by mistake leave neither in the log.
    """
    server = fleet.control_plane()
    assert server.enjoin("machines").returncode == 0
    secret = server.connection["client_secret"]
    (signed_in, *_) = (line for line in lines(server.logs(), "request") if line["route"].endswith("/token"))
    assert (signed_in["status"], signed_in["principal"]) == (200, None)
    assert secret not in server.logs()


def test_level(fleet: Fleet) -> None:
    """
    With `warning` a request leaves no line; with `debug` each change of state does.
    """
    quiet = fleet.control_plane(env={VARIABLE: "warning"})
    assert quiet.enjoin("machines").returncode == 0
    assert quiet.logs() == ""
    server = fleet.control_plane(env={VARIABLE: "DEBUG"})
    fleet.agent(server, "m1", env={VARIABLE: "error"})
    assert server.enjoin("run", "m1", "--", "true").returncode == 0
    until(lambda: len(lines(server.logs(), "report")) > 1, "both reports are in the log")
    assert [line["state"] for line in lines(server.logs(), "report")] == ["Running", "Succeeded"]
    assert fleet.directory.joinpath("machine0-m1.log").read_text() == ""


@pytest.mark.parametrize("verb", ["serve", "agent"])
def test_unknown_level(tmp_path: Path, verb: str) -> None:
    """
    A level that is none is an error of usage that names those that are.
    """
    words: Mapping[str, list[str | Path]] = {
        "serve": ["--data-dir", tmp_path, "--listen", "127.0.0.1:0"],
        "agent": ["--state-dir", tmp_path],
    }
    done = run_enjoin(verb, *words[verb], env={VARIABLE: "loud"})
    assert done.returncode == 2
    assert done.stderr.decode().strip() == f"enjoin: {VARIABLE}=loud: allowed are debug, info, warning, error"
