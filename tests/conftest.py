"""Nothing is skipped silently: what a test needs is declared, and what did not run is the last thing printed."""

import os
from collections import Counter

import pytest
from hypothesis import settings

from tests.tools import NEEDS

REQUIRE_ALL = os.environ.get("ENJOIN_REQUIRE_ALL") == "1"  # `./dev test-all`: a missing program is a failure

# No deadline: tests assert behaviour, benchmarks report speed.
settings.register_profile("quick", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("full", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("full" if REQUIRE_ALL else "quick")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are missing, or fail it under ENJOIN_REQUIRE_ALL=1."""
    for name in [name for marker in item.iter_markers("requires") for name in marker.args]:
        need = NEEDS[name]
        if need.is_there():
            continue
        reason = f"no {name} on this machine ({need.remedy})"
        if REQUIRE_ALL and need.installable:
            pytest.fail(f"{reason}; ENJOIN_REQUIRE_ALL=1 forbids to skip", pytrace=False)
        pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a need that tests/tools.py does not know, before anything runs."""
    for item in items:
        for marker in item.iter_markers("requires"):
            unknown = [name for name in marker.args if name not in NEEDS]
            if unknown or not marker.args:
                message = f"{item.nodeid} requires {unknown or 'nothing'}; tests/tools.py knows {sorted(NEEDS)}"
                raise pytest.UsageError(message)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say last, after pytest's own summary, what was not run and why."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = Counter(_reason(report) for report in reporter.stats.get("skipped", []))
    if not skipped:
        return
    reporter.write_line("")
    reporter.write_line(f"!!!!!!!!  NOT RUN: {skipped.total()} tests  !!!!!!!!", red=True, bold=True)
    for reason, count in sorted(skipped.items()):
        reporter.write_line(f"!!!!!!!!  {count}: {reason}", red=True, bold=True)


def _reason(report: pytest.TestReport) -> str:
    """Why `report` was skipped; pytest keeps (path, line, "Skipped: reason")."""
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
