"""`enjoin az`: the unmodified az with a configuration of its own, pointed and signed in."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from enjoin.cli.client import Client
from enjoin.cli.connection import Connection, load
from enjoin.cli.failure import Failure, UsageFailure
from enjoin.cli.options import connection_file, connection_option
from enjoin.cli.present import say

VARIABLE: Final = "ENJOIN_AZ"
OWN_AZ: Final = Path(".tools/az/bin/az")  # where `./dev test-all` puts it
CLOUD: Final = "enjoin"
STAMP: Final = "enjoin.stamp"
LOCK: Final = "enjoin.lock"
# Words after which nobody knows whether az is still signed in as we left it.
CHANGES: Final = (("login",), ("logout",), ("cloud",), ("account", "clear"), ("account", "set"))


def environment(connection: Connection) -> dict[str, str]:
    """Return what az needs beside the inherited environment."""
    found = {"AZURE_CONFIG_DIR": str(connection.az_directory)}
    if connection.ca_file is not None:
        found["REQUESTS_CA_BUNDLE"] = str(connection.ca_file)
    return found


@click.command(
    short_help="Run the unmodified az, signed in to this control plane.",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["--help"],
    },
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ARGS...")
@connection_option
def az(arguments: tuple[str, ...]) -> None:
    """Run the unmodified az with ARGS, signed in to this control plane: enjoin az -- vm list.

    It has a configuration directory of its own beside the connection file; your az stays pointed where it is. az is
    looked for on PATH and as .tools/az/bin/az, or is what ENJOIN_AZ names.
    """
    connection = load(connection_file())
    program = find_az()
    # What is not asked for must not leave an air-gapped network, nor keep a process there that tries.
    variables = {"AZURE_CORE_COLLECT_TELEMETRY": "false", **os.environ, **environment(connection)}
    with _locked(connection.az_directory) as own:
        _sign_in(program, connection, own, variables)
        if any(arguments[: len(words)] == words for words in CHANGES):
            (own / STAMP).unlink(missing_ok=True)
    sys.stdout.flush()
    os.execve(program, [str(program), *arguments], variables)  # noqa: S606 - without a shell is what we want


def find_az() -> Path:
    """Return the az to run; raise UsageFailure when there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            message = f"{VARIABLE} is {named!r}, which cannot be run"
            raise UsageFailure(message, code="NoAz")
        return Path(named)
    found = shutil.which("az") or shutil.which(OWN_AZ.absolute())
    if found is None:
        message = f"there is no az on PATH and no {OWN_AZ}: install azure-cli, or say with {VARIABLE} where it is"
        raise UsageFailure(message, code="NoAz")
    return Path(found).absolute()


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Make the directory and hold it: two commands at the same time must not both sign in."""
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    with (path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def _sign_in(program: Path, connection: Connection, own: Path, variables: Mapping[str, str]) -> None:
    """Point az at the control plane and sign in, unless that was done for exactly this connection."""
    stamp = _stamp(connection)
    if _read(own / STAMP) == stamp:
        return
    say("pointing az at the control plane; this happens once")
    Client(connection).get("/subscriptions")  # says better than az what is wrong
    if (own / "clouds.config").exists():
        # With a warm token cache az takes any secret without asking, and would keep a wrong one.
        for words in (["account", "clear"], ["cloud", "set", "-n", "AzureCloud"], ["cloud", "unregister", "-n", CLOUD]):
            _run(program, words, variables, may_fail=True)
    _run(
        program,
        ["cloud", "register", "-n", CLOUD, "--endpoint-resource-manager", connection.endpoint],
        variables,
    )
    _run(program, ["cloud", "set", "-n", CLOUD], variables)
    login = ["login", "--service-principal", "-u", connection.client_id, "--tenant", connection.tenant_id, "-o", "none"]
    with _only_in_memory(connection.client_secret) as descriptor:  # az reads @FILE itself
        _run(program, [*login, "-p", f"@/dev/fd/{descriptor}"], variables, pass_fds=(descriptor,))
    draft = own / f"{STAMP}.draft"
    draft.write_text(stamp)
    draft.replace(own / STAMP)


def _stamp(connection: Connection) -> str:
    """Return what tells one sign-in from another, and nothing of the secret."""
    facts = (
        connection.endpoint,
        str(connection.ca_file),
        connection.tenant_id,
        connection.subscription_id,
        connection.client_id,
        connection.client_secret,
    )
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@contextmanager
def _only_in_memory(text: str) -> Iterator[int]:
    """Give a descriptor from which a child reads `text` as a file; it never is on a disk or a command line."""
    descriptor = os.memfd_create("enjoin", 0)
    try:
        os.write(descriptor, text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _run(
    program: Path,
    words: Sequence[str],
    variables: Mapping[str, str],
    *,
    may_fail: bool = False,
    pass_fds: tuple[int, ...] = (),
) -> None:
    done = subprocess.run(
        [program, *words, "--only-show-errors"],
        env=variables,
        pass_fds=pass_fds,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0 and not may_fail:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        reason = next((line for line in said if line.startswith("ERROR")), said[-1])
        message = f"`az {words[0]}` failed: {reason}"
        raise Failure(message, code="AzFailed")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
