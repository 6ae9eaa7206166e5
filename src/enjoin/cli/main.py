"""Entry point of `enjoin`: hands the arguments to the half that the first word names.

Imports nothing but the standard library, because `enjoin join` and `enjoin agent` run on machines that we do
not own and must not load the client or the server. tests/test_layers.py enforces it.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final

from enjoin import __version__

MACHINE_VERBS: Final = {  # verb -> module with main(argv) -> exit code; argparse only
    "agent": "enjoin.cli.agent",
    "join": "enjoin.cli.join",
}
APPLICATION: Final = "enjoin.cli.application"  # click; every other verb, and the help that lists them all


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` is without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in MACHINE_VERBS:
        run: Callable[[list[str]], int] = importlib.import_module(MACHINE_VERBS[words[0]]).main
        return run(words[1:])
    if words == ["--version"]:
        print(f"enjoin {__version__}")
        return 0
    application: Callable[..., int | None] = importlib.import_module(APPLICATION).cli
    return application(args=words, prog_name="enjoin") or 0


if __name__ == "__main__":
    sys.exit(main())
