"""`enjoin az`: the unmodified az, pointed and signed in by itself."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.processes import ENJOIN, Agent, ControlPlane, Fleet, environment
from tests.tools import program

FAKE = """#!/bin/bash
# Stands in for az: notes its arguments and what it is told to read, and keeps state as far as it matters here.
printf '%s\\n' "$*" >> "$AZURE_CONFIG_DIR/calls"
printf '%s\\n' "$REQUESTS_CA_BUNDLE" > "$AZURE_CONFIG_DIR/ca"
touch "$AZURE_CONFIG_DIR/clouds.config"
for word in "$@"; do
    case $word in @*) cat "${word#@}" > "$AZURE_CONFIG_DIR/secret"; cat "${word#@}" > "$AZURE_CONFIG_DIR/again" ;; esac
done
if [ "$1" = fail ]; then echo "ERROR: it failed" >&2; exit 7; fi
"""


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """Variables that make `enjoin az` run a stand-in."""
    path = tmp_path / "az"
    path.write_text(FAKE)
    path.chmod(0o755)
    return {"ENJOIN_AZ": str(path)}


def calls(server: ControlPlane) -> list[str]:
    """What the stand-in was called with, and forget it."""
    path = server.data_dir / "az/calls"
    found = path.read_text().splitlines()
    path.unlink()
    return found


def test_sign_in_once(fleet: Fleet, fake: dict[str, str]) -> None:
    """
    On the first use only az is pointed and signed in, in a directory of its own (0700); the secret is in no argument.
    """
    server = fleet.control_plane()
    done = server.enjoin("az", "--", "vm", "list", "-o", "json", env=fake)
    assert (done.returncode, done.stderr) == (0, b"")
    first = calls(server)
    assert [call.split()[:2] for call in first] == [
        ["cloud", "register"],
        ["cloud", "set"],
        ["login", "--service-principal"],
        ["vm", "list"],
    ]
    assert first[-1] == "vm list -o json"
    connection, own = server.connection, server.data_dir / "az"
    assert connection["client_secret"] not in "\n".join(first)
    assert (own / "secret").read_text() == (own / "again").read_text() == connection["client_secret"]
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert (own / "ca").read_text().strip() == connection["ca_file"]
    assert connection["client_secret"] not in (own / "enjoin.stamp").read_text()

    server.enjoin("az", "vm", "show", env=fake)
    assert calls(server) == ["vm show"]


def test_sign_in_again(fleet: Fleet, fake: dict[str, str]) -> None:
    """
    A changed connection signs in anew, dropping az's cached token first; so does the next use after `az logout`.
    """
    server = fleet.control_plane()
    server.enjoin("az", "--", "version", env=fake)
    calls(server)
    server.stop()
    server.connection_file.unlink()  # a restart makes a new secret then
    server.start()
    server.enjoin("az", "--", "version", env=fake)
    again = calls(server)
    assert [call.split()[0] for call in again] == ["account", "cloud", "cloud", "cloud", "cloud", "login", "version"]
    assert again[0].startswith("account clear")
    server.enjoin("az", "--", "logout", env=fake)
    assert calls(server) == ["logout"]
    server.enjoin("az", "--", "version", env=fake)
    assert "login --service-principal" in "\n".join(calls(server))


def test_failures(fleet: Fleet, fake: dict[str, str], tmp_path: Path) -> None:
    """
    Exit code and words are az's own; without az, or without a control plane, one line says what to do.
    """
    server = fleet.control_plane()
    done = server.enjoin("az", "--", "fail", env=fake)
    assert (done.returncode, done.stderr) == (7, b"ERROR: it failed\n")
    bare = environment(server.environment, {"PATH": str(tmp_path / "empty")})
    done = subprocess.run([*ENJOIN, "az", "--", "version"], cwd=tmp_path, env=bare, check=False, capture_output=True)
    assert done.returncode == 2
    assert b"no az on PATH" in done.stderr
    (server.data_dir / "az/enjoin.stamp").unlink()
    server.stop()
    done = server.enjoin("az", "--", "version", env=fake)
    assert done.returncode == 5
    assert done.stderr.startswith(b"enjoin: the control plane at https://")


@pytest.mark.requires("az")
def test_real_az(server: ControlPlane, vm: Agent) -> None:
    """
    The real az, run by `enjoin az`, lists machines and runs a command, with nothing set up by hand (F15).
    """
    az = {"ENJOIN_AZ": str(program("az"))}
    done = server.enjoin("az", "--", "vm", "list", "--query", "[].name", "-o", "tsv", env=az)
    assert done.returncode == 0, done.stderr.decode()
    assert vm.name in done.stdout.decode().split()
    words = ("vm", "run-command", "create", "-g", "enjoin", "--vm-name", vm.name, "--name", "by-az")
    done = server.enjoin("az", "--", *words, "--script", "echo from az", "-o", "json", env=az)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["provisioningState"] == "Succeeded"
    assert server.text("logs", vm.name, "by-az") == "from az"
    missing = ("vm", "run-command", "show", "-g", "enjoin", "--vm-name", vm.name, "--name", "absent")
    assert server.enjoin("az", "--", *missing, env=az).returncode == 3


@pytest.mark.requires("az")
def test_real_az_after_a_new_secret(fleet: Fleet) -> None:
    """
    When the secret changes the real az is signed in anew, although its token cache is warm.
    """
    server = fleet.control_plane()
    az = {"ENJOIN_AZ": str(program("az"))}
    assert server.enjoin("az", "--", "group", "list", env=az).returncode == 0
    server.stop()
    server.connection_file.unlink()
    server.start()
    done = server.enjoin("az", "--", "group", "list", "--query", "[].name", "-o", "tsv", env=az)
    assert (done.returncode, done.stdout) == (0, b"enjoin\n"), done.stderr.decode()
    kept = subprocess.run(
        ["grep", "-rlF", server.connection["client_secret"], server.data_dir / "az"],
        check=False,
        capture_output=True,
        text=True,
    )
    # az keeps the secret itself, in its own file that only this user can read; nothing of ours holds it.
    assert {Path(line).name for line in kept.stdout.split()} <= {"service_principal_entries.json"}
