"""A script that shows how often it was started and whether all that it printed arrived."""

from pathlib import Path
from typing import Any, Final

from tests.acceptance.arm_client import TERMINAL, Commands
from tests.acceptance.processes import until

PRINTED: Final = b"".join(b"%d\n" % number for number in range(1, 20_001))  # more than fits into the database
PRINTED_FIRST: Final = PRINTED[: PRINTED.index(b"10001\n")]  # before it waits to be let go
COMPLAINED: Final = b"half way\nat the end\n"


class Witness:
    """A script that leaves a line for each time it was started, and what became of it."""

    def __init__(self, commands: Commands, directory: Path, name: str = "witness", *, exit_code: int = 0) -> None:
        self._commands, self.name, self._exit_code = commands, name, exit_code
        self._starts, self._go, self._ends = (directory / f"{name}.{what}" for what in ("starts", "go", "ends"))

    @property
    def script(self) -> str:
        """Appends its line, prints, waits until it may go, and prints the rest."""
        return (
            f"echo started >> {self._starts}\nseq 1 10000\necho half way >&2\n"
            f"until [ -e {self._go} ]; do sleep 0.02; done\nseq 10001 20000\necho at the end >&2\n"
            f"echo ended >> {self._ends}\nexit {self._exit_code}\n"
        )

    def put(self) -> None:
        """Ask for it."""
        self._commands.put(self.name, self.script)

    @property
    def execution_id(self) -> str:
        """Its execution."""
        return self._commands.execution_id(self.name)

    def go(self) -> None:
        """Let it come to its end."""
        self._go.touch()

    @property
    def starts(self) -> int:
        """How many times it was started."""
        return self._starts.read_text().count("\n") if self._starts.exists() else 0

    def wait_running(self) -> None:
        """Wait until it runs, and the control plane knows."""
        until(lambda: self.starts, "the script is started")
        self._commands.reached(self.name, "Running")

    def go_and_end(self) -> None:
        """Let it come to its end, and wait for that."""
        self.go()
        until(self._ends.exists, "the script comes to its end")

    def assert_whole(self) -> None:
        """It ran once, to its own end, and everything of it arrived."""
        view = self._commands.ended(self.name)
        state = "Failed" if self._exit_code else "Succeeded"
        assert (view["executionState"], view["exitCode"], self.starts) == (state, self._exit_code, 1), view
        assert self._commands.whole_output(self.name, len(PRINTED)) == PRINTED
        assert self._commands.whole_output(self.name, len(COMPLAINED), "stderr") == COMPLAINED

    def assert_honest(self) -> dict[str, Any]:
        """It ran at most once, and its state says how it ended, or that nobody knows, with a reason."""
        view = self._commands.reached(self.name, *TERMINAL, "Unknown")
        assert self.starts <= 1
        assert view["executionMessage"]
        if self.starts:
            assert self._commands.whole_output(self.name, len(PRINTED)) == PRINTED
        return view
