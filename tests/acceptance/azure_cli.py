"""The unmodified az, pointed at a control plane in the way that README.md tells its readers."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.acceptance.processes import ControlPlane
from tests.tools import REPOSITORY, program

RECIPE_TEST: Final = "tests/acceptance/test_az.py::test_three_command_recipe"
LIMIT_S: Final = 120.0
_BLOCK: Final = re.compile(rf"^```sh covered-by={re.escape(RECIPE_TEST)}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Az:
    """One configuration directory of az. Nothing of the caller's environment reaches it but PATH."""

    def __init__(self, directory: Path, server: ControlPlane) -> None:
        self.directory = directory
        self._env = {
            "PATH": os.pathsep.join([str(program("az").parent), os.environ.get("PATH", os.defpath)]),
            "HOME": str(directory),
            "AZURE_CONFIG_DIR": str(directory / "azure"),
        }
        self._ca = {"REQUESTS_CA_BUNDLE": server.connection["ca_file"]}

    def bash(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run what a person would type, with nothing exported but what the script exports."""
        return self._run(["bash", "-e", "-c", script], self._env)

    def __call__(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one az command to its end; the exit code is the caller's to look at."""
        # Of the variables only the certificate authority is needed; telemetry leaves processes behind that try to send.
        env = {**self._env, **self._ca, "AZURE_CORE_COLLECT_TELEMETRY": "false", **variables}
        return self._run(["az", *map(str, words)], env)

    def ok(self, *words: str | Path) -> str:
        """Return the stdout of a command that has to succeed and to complain about nothing."""
        done = self(*words)
        assert (done.returncode, done.stderr) == (0, ""), f"az {words}: exit {done.returncode}: {done.stderr}"
        return done.stdout

    def json(self, *words: str | Path) -> Any:  # noqa: ANN401 - JSON
        """Return what a command that has to succeed printed, read as JSON."""
        return json.loads(self.ok(*words))

    def _run(self, words: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=dict(env),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )


def recipe(server: ControlPlane, vm_name: str) -> list[str]:
    """Return the blocks of README.md that this recipe is, with their placeholders filled in."""
    connection = server.connection
    words = {name.upper(): connection[name] for name in ("ca_file", "endpoint", "client_id", "client_secret")}
    words |= {"TENANT_ID": connection["tenant_id"], "m1": vm_name}
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks: list[str] = _BLOCK.findall(text)
    return [re.sub(r"\b(?:" + "|".join(words) + r")\b", lambda found: words[found[0]], block) for block in blocks]
