"""`./dev bench [NAME ...]`: run the benchmarks, print their figures, and write them to bench/results/."""

import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("shim", "store", "commands", "sdk", "az")
RESULTS = Path(__file__).parent / "results"


def main(wanted: list[str]) -> int:
    """Run the named benchmarks, or all."""
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown:
        print(f"bench: no benchmark called {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    figures: dict[str, Any] = {"machine": machine()}
    print(json.dumps(figures["machine"]))
    for name in wanted or NAMES:
        figures[name] = importlib.import_module(f"bench.{name}").main()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return 0


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
