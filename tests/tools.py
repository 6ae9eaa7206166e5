"""What a test may need beside Python, where it is looked for, and how a machine gets it."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
NODE_TOOLS: Final = REPOSITORY / ".tools/node"  # with the Azure SDK for JavaScript
OWN_TOOLS: Final = (REPOSITORY / ".tools/az/bin", REPOSITORY / ".venv/bin")  # looked into before PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One name for `@pytest.mark.requires`."""

    is_there: Callable[[], bool]
    remedy: str  # what a person does to have it
    installable: bool = True  # False: a property of the machine, which `./dev test-all` cannot bring


def find_program(name: str) -> Path | None:
    """Where `name` is, in this repository's own tools first and then on PATH; None if nowhere."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, OWN_TOOLS), os.environ.get("PATH", os.defpath)]))
    return None if found is None else Path(found)


def program(name: str) -> Path:
    """Where `name` is; a test that calls this carries `@pytest.mark.requires(name)`."""
    found = find_program(name)
    if found is None:
        message = f"{name} is not on this machine; mark the test with @pytest.mark.requires({name!r})"
        raise FileNotFoundError(message)
    return found


def writable_cgroup() -> Path | None:
    """This process's cgroup (v2, or the v2 side of a hybrid hierarchy) if children can be made in it."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    roots = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    for root in roots:
        for path in own:
            directory = root / path.lstrip("/")
            if os.access(directory, os.W_OK):
                return directory
    return None


def _installed(name: str) -> Need:
    return Need(is_there=lambda: find_program(name) is not None, remedy="./dev test-all installs it")


NEEDS: Final[Mapping[str, Need]] = {
    "az": _installed("az"),
    "curl": _installed("curl"),
    "git": _installed("git"),
    "node": Need(
        is_there=lambda: find_program("node") is not None and (NODE_TOOLS / "node_modules/@azure/arm-compute").is_dir(),
        remedy="./dev test-all installs it with the Azure SDK for JavaScript",
    ),
    "openssl": _installed("openssl"),
    "strace": _installed("strace"),
    "cgroup": Need(
        is_there=lambda: writable_cgroup() is not None,
        remedy="run on a machine, or as a user, that may make cgroups (v2)",
        installable=False,
    ),
    "root": Need(is_there=lambda: os.geteuid() == 0, remedy="run as root", installable=False),
}
