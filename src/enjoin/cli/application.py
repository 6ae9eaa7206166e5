"""The click application: every verb by name, loaded when it is used; and the one place where failures are shown."""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Final

import click

from enjoin import __version__
from enjoin.cli.failure import Failure, UsageFailure
from enjoin.cli.options import connection_option

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
DEBUG: Final = "ENJOIN_DEBUG"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """Where a verb is, and its line in the list: written here, so that listing loads nothing."""

    module: str
    attribute: str | None  # None: main.py runs it itself, without click
    help: str


def _verb(module: str, attribute: str | None, text: str) -> Verb:
    return Verb(module=f"enjoin.cli.{module}", attribute=attribute, help=text)


VERBS: Final = {
    "demo": _verb("demo", "demo", "Show it all at once on this machine, and leave nothing behind."),
    "serve": _verb("serve", "serve", "Run the control plane."),
    "token": _verb("tokens", "token", "Make tokens with which machines join."),
    "join": _verb("join", None, "Make this machine known to a control plane."),
    "agent": _verb("agent", None, "Run the agent of this machine."),
    "run": _verb("run", "run", "Run a script on a machine and show its output as it comes."),
    "machines": _verb("machines", "machines", "List the machines."),
    "list": _verb("commands", "list_commands", "List the run commands of a machine."),
    "show": _verb("commands", "show", "Show a run command and what became of it."),
    "logs": _verb("output", "logs", "Print the whole output of a run command."),
    "cancel": _verb("commands", "cancel", "End a running script; its run command stays."),
    "delete": _verb("commands", "delete", "Delete a run command, ending its script."),
    "principal": _verb("principals", "principal", "Manage service principals."),
    "az": _verb("az", "az", "Run the unmodified az, signed in to this control plane."),
    "env": _verb("env", "env", "Print export lines for az, the Azure SDKs, Node and curl."),
}


class Application(click.Group):
    """`enjoin`. Failures end with one line on stderr, `enjoin: ...`, and an exit code that says which kind it is."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order in which a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb; None when there is no such."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        if verb.attribute is None:  # the dispatcher runs it, and did not see it in the first place
            message = f"write `enjoin {cmd_name} ...`, with nothing before {cmd_name!r}"
            raise click.UsageError(message, ctx)
        command: click.Command = getattr(import_module(verb.module), verb.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        """List the verbs without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def main(  # type: ignore[override]  # the dispatcher wants the exit code, never SystemExit
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> int:
        """Run one command and return its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            result = super().main(words, prog_name, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            print(error.format_message(), file=sys.stderr)
            return _fail(UsageFailure("no command given"), words)
        except click.UsageError as error:
            if error.ctx is not None:
                print(error.ctx.get_usage(), file=sys.stderr)
            return _fail(UsageFailure(error.format_message()), words)
        except click.ClickException as error:
            return _fail(UsageFailure(error.format_message()), words)
        except Failure as error:
            return _fail(error, words)
        except (KeyboardInterrupt, click.Abort):
            return INTERRUPTED
        except BrokenPipeError:
            _silence_stdout()
            return BROKEN_PIPE
        except Exception as error:  # noqa: BLE001 - whatever it is, stderr ends with one line
            return _fail(_unexpected(error), words)
        return result if isinstance(result, int) else 0


def _fail(failure: Failure, words: Sequence[str]) -> int:
    sys.stdout.flush()
    if _wants_json(words):
        print(json.dumps(failure.envelope, indent=2, ensure_ascii=False), file=sys.stderr)
    print(f"enjoin: {failure}", file=sys.stderr, flush=True)
    return failure.exit_code


def _unexpected(error: Exception) -> Failure:
    if isinstance(error, OSError):  # a full disk, a directory that cannot be written
        return Failure(str(error))
    if isinstance(error, UnicodeEncodeError):  # how Python spells bytes of argv or environment that are no text
        message = "what was given holds bytes that are not UTF-8 text; JSON cannot carry them"
        return UsageFailure(message)
    if os.environ.get(DEBUG):
        traceback.print_exc()
    message = f"a mistake in Enjoin, {type(error).__name__}: {error}; {DEBUG}=1 shows where, for your report"
    return Failure(message, code="InternalError")


def _wants_json(words: Sequence[str]) -> bool:
    """Whether -o json was given, however far the command line could be read."""
    own = list(words[: words.index("--")] if "--" in words else words)
    return any(word in ("-ojson", "--output=json") for word in own) or any(
        word in ("-o", "--output") and value == "json" for word, value in pairwise(own)
    )


def _silence_stdout() -> None:
    """Let nothing of what is buffered be written at exit: nobody reads it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="enjoin", message="%(prog)s %(version)s")
@connection_option
def cli() -> None:
    """Run scripts on machines without SSH: Azure's Run Command as software that anyone can host.

    MACHINE is a machine's name in the default resource group, SET/ID for an instance of a scale set, or a whole
    resource id.
    """
