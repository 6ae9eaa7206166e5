"""What `az vm run-command create` of `echo hello` costs beside the same with --no-wait, in turns and in the same run.

Nearly all of both is az itself, starting. What waiting adds is the server's: the script, a held status poll, and what
az does after it; a server that answered a poll too early would add a second or more. `az version` is the floor.
"""

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.fleet import Fleet, file_system, fleet
from tests.tools import NEEDS, program

WARM_UP = 2
ROUNDS = 15
GOAL_S = 0.3


def main() -> dict[str, Any]:
    """Run and print; return the figures, or why there are none."""
    need = NEEDS["az"]
    if not need.is_there():
        reason = f"not measured: no az on this machine ({need.remedy})"
        print(f"az vm run-command create\n  {reason}")
        return {"skipped": reason}
    with fleet("vm") as running:
        figures: dict[str, Any] = {"file_system": file_system(running.directory), **_measure(running)}
    print(f"az vm run-command create of `echo hello` on a VM ({ROUNDS} runs of each, in turns)")
    for name, value in figures.items():
        print(f"  {name:28} {value}")
    return figures


def _measure(running: Fleet) -> dict[str, Any]:
    az = _signed_in(running)
    target = ["-g", running.connection["resource_group"], "--vm-name", "bench", "--script", "echo hello", "-o", "none"]
    kinds: dict[str, list[str]] = {
        "create": ["vm", "run-command", "create", *target],
        "no_wait": ["vm", "run-command", "create", *target, "--no-wait"],
        "version": ["version", "-o", "none"],
    }
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(WARM_UP + ROUNDS):
        for kind, words in kinds.items():
            name = [] if kind == "version" else ["--name", f"{kind}{number}"]
            took_s = _time(az, [*words, *name])
            if number >= WARM_UP:
                samples[kind].append(took_s)
    medians = {kind: round(statistics.median(taken), 3) for kind, taken in samples.items()}
    waiting_s = [one - other for one, other in zip(samples["create"], samples["no_wait"], strict=True)]
    return {
        "create_p50_s": medians["create"],
        "no_wait_p50_s": medians["no_wait"],
        "waiting_costs_s": round(medians["create"] - medians["no_wait"], 3),
        "waiting_costs_paired_p50_s": round(statistics.median(waiting_s), 3),
        "goal_s": GOAL_S,
        "az_version_p50_s": medians["version"],
    }


def _signed_in(running: Fleet) -> dict[str, str]:
    """Point az at the control plane with the three commands of the recipe; return its environment."""
    own = running.connection
    variables = {
        "PATH": os.pathsep.join([str(program("az").parent), os.environ.get("PATH", os.defpath)]),
        "HOME": str(running.directory),
        "AZURE_CONFIG_DIR": str(Path(running.directory, "azure")),
        "REQUESTS_CA_BUNDLE": own["ca_file"],
    }
    secret_file = Path(running.directory, "secret")
    secret_file.write_text(own["client_secret"])
    login = ["login", "--service-principal", "-u", own["client_id"], "--tenant", own["tenant_id"], "-o", "none"]
    _time(variables, ["cloud", "register", "-n", "enjoin", "--endpoint-resource-manager", own["endpoint"]])
    _time(variables, ["cloud", "set", "-n", "enjoin"])
    _time(variables, [*login, "-p", f"@{secret_file}"])
    return variables


def _time(variables: dict[str, str], words: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        ["az", *words], env=variables, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    took_s = time.perf_counter() - begun
    if done.returncode != 0:
        message = f"az {' '.join(words[:3])} ended with {done.returncode}: {done.stderr}"
        raise SystemExit(message)
    return took_s


if __name__ == "__main__":
    main()
