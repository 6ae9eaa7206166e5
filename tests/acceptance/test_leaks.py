"""Secrets stay secret: no value is in a file of ours, on a command line, in an answer or in a log."""

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.acceptance.arm_client import ARMClient, Commands
from tests.acceptance.processes import Agent, ControlPlane, Fleet, processes_of, run_enjoin, until

TELL: Final = """for value in "$NAMED" "$MANY" "$EMPTY" "$@"; do printf %s "$value" | sha256sum; done
touch ready
bash -c 'until [ -e go ]; do sleep 0.02; done' "$1"
printf %s "$NAMED$1" | sha256sum >&2
"""


def sha256(value: str) -> str:
    """Return what `sha256sum` prints for a value on its standard input."""
    return f"{hashlib.sha256(value.encode()).hexdigest()}  -"


class Secret:
    """A value with a part that is found again however it was written down."""

    def __init__(self, form: str = "{}") -> None:
        self._core = secrets.token_hex(12).encode()
        self.value = form.format(self._core.decode())

    @classmethod
    def known(cls, value: str) -> "Secret":
        """Return the secret that a value is, which Enjoin made itself."""
        secret = cls()
        secret._core, secret.value = value.encode(), value
        return secret

    def is_in(self, data: bytes) -> bool:
        """Whether `data` tells it: as it is, in hexadecimal, or in base64 at any of its three offsets."""
        inner = [base64.b64encode(b"\0" * shift + self._core)[4 * (shift > 0) + 4 : -4] for shift in range(3)]
        shapes = (self._core, self._core[::-1], self._core.hex().encode(), *inner)
        return any(shape in data for shape in shapes)


class Search:
    """Where nothing of some secrets may be found."""

    def __init__(self, server: ControlPlane, *agents: Agent) -> None:
        self._server, self._agents = server, agents
        self._command_lines: set[bytes] = set()

    def files(self) -> Iterator[Path]:
        """Return every file of the control plane and the machines, and what they wrote to stderr."""
        for directory in (self._server.data_dir, *(agent.state_dir for agent in self._agents)):
            yield from (path for path in directory.rglob("*") if path.is_file())
        yield from (self._server.log, *(agent.log for agent in self._agents))

    def assert_nowhere(self, *hidden: Secret, but: Path | None = None) -> None:
        """No file holds any of it, and no command line seen so far did. `but` is the file that is made to hold it."""
        looked_at = 0
        for path in self.files():
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                looked_at += 1
                found = [secret.value for secret in hidden if secret.is_in(data)]
                assert not found or path == but, f"{path} holds {found}"
        assert looked_at > 10
        for line in self._command_lines:
            assert not any(secret.is_in(line) for secret in hidden), line

    def assert_found(self, shown: Secret) -> None:
        """The search itself works: a value that is no secret was seen in a file and on a command line."""
        assert any(shown.is_in(path.read_bytes()) for path in self.files())
        assert any(shown.is_in(line) for line in self._command_lines)

    @contextmanager
    def watching_command_lines(self) -> Iterator[None]:
        """Look at the command line of every process, over and over."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                for entry in Path("/proc").iterdir():
                    if entry.name.isdigit():
                        with suppress(OSError):
                            self._command_lines.add((entry / "cmdline").read_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Agent, ARMClient]]:
    """A control plane with a machine, and a client."""
    with Fleet(tmp_path_factory.mktemp("leaks")) as fleet:
        server = fleet.control_plane()
        agent = fleet.agent(server, "m1")
        with ARMClient(server) as client:
            yield server, agent, client


def answers(client: ARMClient, agent: Agent, commands: Commands, name: str) -> Iterator[httpx.Response]:
    """Return every answer there is about a run command."""
    path = commands.path(name)
    generation = commands.view(name)["enjoin"]["generation"]
    for url in (
        path,
        f"{path}?$expand=instanceView",
        f"{agent.resource_id}/runCommands",
        f"{agent.resource_id}/runCommands?$expand=instanceView",
        f"{path}/executions",
        f"{path}/executions/{generation}",
        f"{path}/executions/{generation}/output?stream=stdout",
        f"{path}/executions/{generation}/output?stream=stderr",
        agent.resource_id,
    ):
        answer = client.request("GET", url)
        assert answer.status_code == 200, answer.text
        yield answer


def test_protected_parameters(plane: tuple[ControlPlane, Agent, ARMClient]) -> None:
    """
    Protected values reach the script as they were sent, named and nameless, and are nowhere else, while it runs, after
    it, and after an update that keeps them (F44, case 35).
    """
    server, agent, client = plane
    commands = client.on(agent)
    search = Search(server, agent)
    named, many = Secret("{} with 'quotes' $(id)"), Secret("two\nlines {}\n")
    first, second = Secret("{}"), Secret('"{}" \\ `id` *')
    hidden = (named, many, first, second)
    protected = [
        {"name": "NAMED", "value": named.value},
        {"name": "", "value": first.value},
        {"name": "MANY", "value": many.value},
        {"name": "EMPTY", "value": ""},
        {"value": second.value},
    ]
    shown = Secret()
    public = [{"name": "", "value": shown.value}]
    told = [sha256(value) for value in (named.value, many.value, "", shown.value, first.value, second.value)]
    with search.watching_command_lines():
        for generation in (1, 2):
            given = protected if generation == 1 else None
            put = commands.put("secrets", TELL, parameters=public, protectedParameters=given)
            execution_id = commands.execution_id("secrets")
            work = agent.state_dir / "bundles" / execution_id / "work"
            until((work / "ready").exists, "the script has told")
            assert commands.whole_output("secrets", 6 * 68).decode().splitlines() == told
            search.assert_nowhere(*hidden)
            for answer in (put, *answers(client, agent, commands, "secrets")):
                assert not any(secret.is_in(answer.content) for secret in hidden), answer.text
                assert "rotectedParameters" not in answer.text
            (work / "go").touch()
            assert commands.ended("secrets")["exitCode"] == 0
            error = commands.whole_output("secrets", 68, "stderr").decode()
            assert error.strip() == sha256(named.value + shown.value)
            until(lambda: processes_of(execution_id) == [], "it is over")  # noqa: B023 - called now
            search.assert_nowhere(*hidden)
    for answer in (*answers(client, agent, commands, "secrets"), commands.delete("secrets")):
        assert not any(secret.is_in(answer.content) for secret in hidden), answer.text
    commands.is_gone("secrets")
    search.assert_nowhere(*hidden)
    search.assert_found(shown)


def test_run_protected(plane: tuple[ControlPlane, Agent, ARMClient], tmp_path: Path) -> None:
    """
    `enjoin run --protected` takes values from the environment and from a file; nothing that it or the others print or
    run with tells them.
    """
    server, agent, client = plane
    search = Search(server, agent)
    named, many, first = Secret("{} $HOME"), Secret("{}\nmore\n"), Secret()
    (tmp_path / "many").write_text(many.value)
    (tmp_path / "first").write_text(first.value)
    script = 'for value in "$NAMED" "$MANY" "$@"; do printf %s "$value" | sha256sum; done; sleep 0.2'
    words = ["--name", "run1", "--protected", "NAMED", "--protected", f"MANY=@{tmp_path / 'many'}"]
    words += ["--protected", f"=@{tmp_path / 'first'}", "--", script]
    with search.watching_command_lines():
        done = server.enjoin("run", agent.name, *words, env={"NAMED": named.value})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [sha256(secret.value) for secret in (named, many, first)]
    search.assert_nowhere(named, many, first)
    printed = [server.enjoin("show", agent.name, "run1", *how) for how in ((), ("-o", "json"))]
    printed += [server.enjoin("list", agent.name, *how) for how in ((), ("-o", "json"))]
    for one in printed:
        assert one.returncode == 0
        assert not any(secret.is_in(one.stdout + one.stderr) for secret in (named, many, first))
    for answer in answers(client, agent, client.on(agent), "run1"):
        assert not any(secret.is_in(answer.content) for secret in (named, many, first))


def test_what_fails_tells_nothing(plane: tuple[ControlPlane, Agent, ARMClient]) -> None:
    """
    Neither a script that cannot start, nor one that fails, nor a request that is refused tells its protected values.
    """
    server, agent, client = plane
    commands = client.on(agent)
    search = Search(server, agent)
    hidden = Secret()
    named, nameless = [{"name": "A", "value": hidden.value}], [{"value": hidden.value}]
    with search.watching_command_lines():
        for number, (script, protected) in enumerate(
            [
                ("#!/no/such/interpreter\n", named),
                ("#!/usr/bin/env python3\nprint('hello')\n", nameless),
                ("#!/bin/sh\necho $#\n", nameless),
                ("cd /no/such/directory || exit 3", named),
                ("kill -9 $$", nameless),
            ]
        ):
            commands.put(f"fails{number}", script, protectedParameters=protected)
            assert commands.ended(f"fails{number}")["executionState"] == "Failed"
            for answer in answers(client, agent, commands, f"fails{number}"):
                assert not hidden.is_in(answer.content), answer.text
        for wrong in (
            [{"name": "A", "value": {"inner": hidden.value}}],
            [{"name": "A", "value": [hidden.value]}],
            [{"name": {"x": hidden.value}, "value": "1"}],
            [{"name": "A", "value": hidden.value + "\0"}],
            [{"name": "A=B", "value": hidden.value}],
            [{"name": "A", "value": hidden.value + "x" * 70_000}],
            {"A": hidden.value},
            [hidden.value],
            hidden.value,
        ):
            body = {"properties": {"source": {"script": "true"}, "protectedParameters": wrong}, "location": "local"}
            answer = client.request("PUT", commands.path("refused"), body=body)
            assert answer.status_code == 400, answer.text
            assert not hidden.is_in(answer.content), answer.text
    search.assert_nowhere(hidden)


def test_keys_to_the_house(plane: tuple[ControlPlane, Agent, ARMClient], tmp_path: Path) -> None:
    """
    Enrolment tokens, client secrets and access tokens are told once, to whom they are for, and kept nowhere in clear.
    """
    server, agent, client = plane
    token = Secret.known(server.token())
    joined = Agent(tmp_path / "second")
    search = Search(server, agent, joined)
    words = ["join", "--server", server.endpoint, "--ca-file", server.connection["ca_file"], "--token-file", "-"]
    words += ["--name", "second", "--state-dir", str(joined.state_dir)]
    with search.watching_command_lines():
        done = run_enjoin(*words, stdin=token.value.encode())
        assert done.returncode == 0, done.stderr
        again = run_enjoin(*words, "--state-dir", str(tmp_path / "third"), stdin=token.value.encode())
        assert again.returncode != 0, "it was good for one machine"
        assert not token.is_in(done.stdout + done.stderr + again.stdout + again.stderr)
        made = json.loads(server.text("principal", "create", "somebody", "-o", "json"))
    joined.launch()
    joined.wait_connected(1)
    joined.stop()
    other, own = Secret.known(made["clientSecret"]), Secret.known(server.connection["client_secret"])
    form = {"grant_type": "client_credentials", "scope": f"{server.endpoint}/.default", "client_id": made["clientId"]}
    url = f"{server.endpoint}/{server.connection['tenant_id']}/oauth2/v2.0/token"
    with httpx.Client(verify=client.tls) as http:
        good = http.post(url, data=form | {"client_secret": other.value})
        bad = http.post(url, data=form | {"client_secret": other.value + "x"})
    access = Secret.known(good.json()["access_token"].rpartition(".")[2])  # the signature: the rest is no secret
    assert (good.status_code, bad.status_code) == (200, 401)
    assert not other.is_in(bad.content)
    listed = server.enjoin("principal", "list")
    assert not other.is_in(listed.stdout + listed.stderr)
    search.assert_nowhere(token, other, access)
    search.assert_nowhere(own, but=server.connection_file)
    for path in search.files():
        if path not in (server.log, agent.log, joined.log) and path.exists():
            may_be_public = path.name in ("ca.pem", "server.pem")
            assert path.stat().st_mode & (0o033 if may_be_public else 0o077) == 0, f"{path} is for its owner alone"
