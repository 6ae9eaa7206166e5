"""The application around the verbs: lists, help, and how failures are shown."""

import json
import subprocess
import sys

import click
import pytest

from enjoin.cli import application
from enjoin.cli.application import VERBS, cli
from enjoin.cli.connection import load
from enjoin.cli.env import variables
from tests.unit.cli.conftest import Enjoin
from tests.unit.cli.double import SECRET, Double


def test_help_lists_every_verb(enjoin: Enjoin) -> None:
    """
    `enjoin --help` lists every verb with a line, also those that run without click; so does `enjoin` alone, as exit 2.
    """
    done = enjoin("--help")
    listed = done.stdout.decode().partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line] == list(VERBS)
    alone = enjoin()
    assert (alone.code, alone.last_line) == (2, "enjoin: no command given")
    assert b"Commands:" in alone.stderr


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.attribute])
def test_help_of_a_verb(enjoin: Enjoin, name: str) -> None:
    """
    Each verb explains itself, and its line in the list is its own.
    """
    done = enjoin(name, "--help")
    assert (done.code, done.stderr) == (0, b"")
    assert done.stdout.startswith(f"Usage: enjoin {name}".encode())
    with click.Context(cli) as context:
        command = cli.get_command(context, name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == VERBS[name].help


@pytest.mark.parametrize(
    "words", [("dance",), ("show", "m1"), ("--nonsense",), ("agent1",), ("token", "create", "--uses", "0")]
)
def test_wrong_words(enjoin: Enjoin, words: tuple[str, ...]) -> None:
    """
    A wrong command line is exit 2 and ends stderr with one line.
    """
    done = enjoin(*words)
    assert (done.code, done.stdout) == (2, b"")
    assert done.last_line.startswith("enjoin: ")


@pytest.mark.parametrize("words", [("-o", "json", "x"), ("show", "--output=json"), ("show", "-ojson", "--nonsense")])
def test_wrong_words_as_json(enjoin: Enjoin, words: tuple[str, ...]) -> None:
    """
    Where -o json can be seen on a wrong command line, its error is an envelope too.
    """
    done = enjoin(*words)
    assert done.code == 2
    assert b'"code": "InvalidUsage"' in done.stderr


def test_machine_verb_after_an_option(double: Double, enjoin: Enjoin) -> None:
    """
    `join` and `agent` know no connection file: an option before them is exit 2 and says how to write it.
    """
    done = enjoin("--connection", str(double.connection_file), "agent")
    assert (done.code, done.last_line) == (2, "enjoin: write `enjoin agent ...`, with nothing before 'agent'")


def test_our_own_mistake(double: Double, enjoin: Enjoin, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A mistake of ours is one line too; the traceback is there for who asks.
    """
    monkeypatch.setattr("enjoin.cli.machines.client", lambda: double.nothing)  # type: ignore[attr-defined]
    done = enjoin("machines")
    assert done.code == 1
    assert done.stderr.count(b"\n") == 1
    assert application.DEBUG in done.last_line
    monkeypatch.setenv(application.DEBUG, "1")
    assert b"Traceback" in enjoin("machines").stderr


def test_connection_before_and_after_the_verb(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    --connection may stand before the verb or after it.
    """
    monkeypatch.delenv("ENJOIN_CONNECTION")
    file = str(double.connection_file)
    for words in (("--connection", file, "env"), ("env", "--connection", file)):
        assert (
            SECRET
            in subprocess.run(
                [sys.executable, "-m", "enjoin.cli.main", *words], check=True, capture_output=True, text=True
            ).stdout
        )


def test_env_is_shell_quoted(double: Double) -> None:
    """
    What `enjoin env` prints is what a shell then holds, whatever is in the values.
    """
    double.values["client_secret"] = 'it\'s $(a) `secret` \\ "x" !'
    double.connection_file.write_text(json.dumps(double.values))
    command = [sys.executable, "-m", "enjoin.cli.main", "env"]
    script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shown = subprocess.run(["bash", "-c", f"{script}env -0"], check=True, capture_output=True, text=True).stdout
    expected = variables(load(str(double.connection_file)))
    assert expected.items() <= dict(line.split("=", 1) for line in shown.split("\0") if line).items()
    assert expected["AZURE_CLIENT_SECRET"] == double.values["client_secret"]


def test_what_run_loads() -> None:
    """
    `enjoin run` starts fast because it loads no server, no rich and no third-party HTTP library.
    """
    code = "import enjoin.cli.run, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"click", "enjoin"} <= set(loaded)
    assert not {"rich", "httpx", "starlette", "uvicorn", "asyncio", "cryptography", "structlog"} & set(loaded)
