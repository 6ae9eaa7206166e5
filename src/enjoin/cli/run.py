"""`enjoin run`: a script on a machine, as if it ran here."""

import contextlib
import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import click

from enjoin.cli.application import BROKEN_PIPE, INTERRUPTED
from enjoin.cli.client import Answer, Client
from enjoin.cli.failure import Failure, NotFoundFailure, UnreachableFailure, UsageFailure
from enjoin.cli.machines import Target, find_machine
from enjoin.cli.options import client, connection_option, output_option
from enjoin.cli.present import print_json, say
from enjoin.cli.streams import (
    PATIENCE_S,
    TERMINAL,
    UNKNOWN,
    ExecutionPath,
    Following,
    OutputMissing,
    ReaderGone,
    descriptors,
)

TIMED_OUT: Final = 124
NOT_RUN: Final = 125  # never started, refused, or nobody knows
SIGNALED: Final = 128
OWN_CODES: Final = range(256)
STANDARD_INPUT: Final = "-"
CANCEL_TRIES: Final = 5
CANCEL_PAUSE_S: Final = 0.1


@click.command(short_help="Run a script on a machine and show its output as it comes.")
@click.argument("machine")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- WORDS...]")
@click.option("--script-file", metavar="FILE", help="Read the script from FILE; - is standard input.")
@click.option("-p", "--parameter", "parameters", metavar="NAME=VALUE", multiple=True, help="Set a variable.")
@click.option(
    "--protected",
    metavar="NAME[=VALUE|=@FILE]",
    multiple=True,
    help="Set a variable that is never shown; from the environment, given here, or all of a file. "
    "NAME may be empty: then it is an argument.",
)
@click.option("--arg", "arguments", metavar="VALUE", multiple=True, help="Give the script an argument.")
@click.option("--timeout", metavar="S", type=click.IntRange(min=1), help="End it after S seconds [default: no limit].")
@click.option("--run-as", metavar="USER", help="Run it as this user of the machine.")
@click.option("--run-as-password-file", metavar="FILE", help="Where that user's password is.")
@click.option("--name", help="Name of the run command [default: run- and 12 hex digits].")
@click.option("--detach", is_flag=True, help="Print the resource id and leave it running.")
@output_option
@connection_option
def run(*, machine: str, name: str | None, detach: bool, output: str, **asked: Any) -> int:  # noqa: ANN401 - click's
    """Run a script on MACHINE; stdout, stderr and the exit code are the script's.

    One word after -- is the script's text; several are a command and its arguments, which arrive word for word.
    Ctrl-C ends the script and all that it started; once more leaves at once.

    Exit codes: the script's own; 128+N when signal N ended it; 124 timed out; 130 canceled; 125 never started,
    refused, or its outcome is unknown; 2 usage; 3 not found; 4 not authorised; 5 control plane unreachable.
    """
    properties = _properties(**asked)
    here = client()
    target = find_machine(here, machine)
    own = Run(here=here, target=target, name=name or f"run-{secrets.token_hex(6)}")
    try:
        own.put(properties, is_new=name is None)
        if detach:
            print_json(own.accepted.body) if output == "json" else print(own.accepted.body["id"])
            return 0
        own.begin(show_streams=output == "text")
        return own.finish()
    except KeyboardInterrupt:
        return own.cancel()
    except ReaderGone:
        message = f"nobody reads the output any more; the script goes on: `enjoin cancel {machine} {own.name}` ends it"
        print(f"enjoin: {message}", file=sys.stderr, flush=True)
        return BROKEN_PIPE


def _properties(  # one parameter for each option
    *,
    words: Sequence[str],
    script_file: str | None,
    parameters: Sequence[str],
    protected: Sequence[str],
    arguments: Sequence[str],
    timeout: int | None,
    run_as: str | None,
    run_as_password_file: str | None,
) -> dict[str, Any]:
    """Return the properties of the run command that was asked for."""
    if run_as_password_file is not None and run_as is None:
        message = "--run-as-password-file needs --run-as USER"
        raise UsageFailure(message)
    public = [_named(text, "-p") for text in parameters] + [{"name": "", "value": text} for text in arguments]
    hidden = [_protected(text) for text in protected]
    properties: dict[str, Any] = {"source": {"script": _script(words, script_file)}, "asyncExecution": False}
    properties["protectedParameters"] = hidden  # even when empty: those of an earlier command must not come back
    if public:
        properties["parameters"] = public
    if timeout is not None:
        properties["timeoutInSeconds"] = timeout
    if run_as is not None:
        properties["runAsUser"] = run_as
    if run_as_password_file is not None:
        properties["runAsPassword"] = _read(run_as_password_file).removesuffix("\n").removesuffix("\r")
    return properties


def _script(words: Sequence[str], script_file: str | None) -> str:
    if (script_file is None) == (not words):
        message = "give the script either as -- WORDS or as --script-file FILE"
        raise UsageFailure(message)
    if script_file is not None:
        return _read(script_file)
    return words[0] if len(words) == 1 else shlex.join(words)


def _named(text: str, option: str) -> dict[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        message = f"{option} takes NAME=VALUE, found {text!r}"
        raise UsageFailure(message)
    return {"name": name, "value": value}


def _protected(text: str) -> dict[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        found = os.environ.get(name)
        if found is None:
            message = f"--protected {name} reads the environment, and there is no variable {name}"
            raise UsageFailure(message)
        return {"name": name, "value": found}
    return {"name": name, "value": _read(value[1:]) if value.startswith("@") else value}


def _read(name: str) -> str:
    """Return the text of a file, exactly; line ends are the machine's business."""
    try:
        data = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    except OSError as error:
        message = f"cannot read {name}: {error.strerror}"
        raise UsageFailure(message) from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}"
        raise UsageFailure(message) from None


class NotRun(Failure):
    """The script never started, was refused, or nobody knows what became of it."""

    exit_code = NOT_RUN
    code = "RunCommandNotRun"

    @classmethod
    def because(cls, error: Failure) -> Failure:
        """Return `error` as the reason why nothing ran; what has an exit code of its own keeps it."""
        return error if error.exit_code != 1 else cls(str(error), envelope=error.envelope)


class Run:
    """One `enjoin run`, from the PUT to the exit code."""

    def __init__(self, *, here: Client, target: Target, name: str) -> None:
        self.name = name
        self._here = here
        self._target = target
        self._path = target.command_path(name)
        self._request_id = str(uuid4())
        self._accepted: Answer | None = None
        self._execution: ExecutionPath | None = None
        self._following: Following | None = None

    @property
    def accepted(self) -> Answer:
        """The answer to the PUT."""
        assert self._accepted is not None
        return self._accepted

    def put(self, properties: Mapping[str, Any], *, is_new: bool) -> None:
        """Create the run command, or replace the one of that name; raise NotRun when it is refused."""
        location = self._target.body["location"]
        if not is_new:  # a run command stays where it was made, whatever its machine says
            with contextlib.suppress(NotFoundFailure):
                location = self._here.get(self._path)["location"]
        body = {"location": location, "properties": properties}
        try:
            self._accepted = self._here.send("PUT", self._path, body=body, request_id=self._request_id)
        except Failure as error:
            raise NotRun.because(error) from None

    def begin(self, *, show_streams: bool) -> None:
        """Show the streams as they come, if they are to be shown."""
        self._execution = self._find_execution()
        self._here.patience_s = PATIENCE_S
        if self._target.status == "Disconnected":
            say(f"{self._target.name} is not connected; the command waits for it (Ctrl-C cancels)")
        if show_streams:
            self._following = Following(self._here, self._execution, descriptors())

    def _find_execution(self) -> ExecutionPath:
        """Return which execution the PUT made: others may replace the run command at any time."""
        for item in self._here.get(f"{self._path}/executions")["value"]:
            if item["properties"].get("clientRequestId") == self._request_id:
                return ExecutionPath(command=self._path, generation=int(item["properties"]["generation"]))
        message = f"the run command {self.name} was accepted and has been replaced since; see `enjoin show`"
        raise NotRun(message)

    def finish(self) -> int:
        """Wait for the end and return the exit code that it has here; raise NotRun when there is none to pass on."""
        assert self._execution is not None
        missing: OutputMissing | None = None
        try:
            if self._following is not None:
                self._following.wait()
            else:
                self._here.wait(self.accepted)
        except OutputMissing as error:
            missing = error
        except UnreachableFailure as error:
            message = f"{error}; the script goes on: `enjoin logs -f {self._target.id} {self.name}` follows it"
            raise UnreachableFailure(message, envelope=error.envelope) from None
        ended = self._execution.get(self._here)
        if self._following is None:
            print_json(self._here.get(self._path, **{"$expand": "instanceView"}))
        code = exit_code(ended)
        if code is None:
            is_unknown = ended["executionState"] not in TERMINAL
            message = ended.get("executionMessage") or f"the script did not run: {ended['executionState']}"
            raise NotRun(message, code="ExecutionStateUnknown" if is_unknown else None)
        if missing is not None:
            print(f"enjoin: {missing}", file=sys.stderr, flush=True)
        return code

    def cancel(self) -> int:
        """End the script after Ctrl-C, show what it still writes, and return the exit code of that."""
        say("canceling; Ctrl-C again leaves at once")
        if not self._post_cancel():
            return INTERRUPTED
        if self._execution is None:
            self._execution = self._find_execution()
        try:
            if self._following is None:
                _until_ended(self._here, self._execution)
            else:
                self._following.wait()
        except ReaderGone:
            return BROKEN_PIPE
        return INTERRUPTED

    def _post_cancel(self) -> bool:
        """Ask for the end; False when the interruption came before the run command was accepted."""
        for _ in range(CANCEL_TRIES):
            try:
                self._here.send("POST", f"{self._path}/cancel", repeatable=True)  # twice is as good as once
            except NotFoundFailure:
                if self._accepted is not None:
                    return False
                time.sleep(CANCEL_PAUSE_S)  # the PUT may be on its way
            else:
                return True
        return False


def _until_ended(here: Client, execution: ExecutionPath) -> None:
    while execution.get(here)["executionState"] not in (*TERMINAL, UNKNOWN):
        time.sleep(CANCEL_PAUSE_S)


def exit_code(ended: Mapping[str, Any]) -> int | None:
    """Return the exit code of `enjoin run` for an execution that ended so; None when there is nothing to pass on."""
    match ended["executionState"]:
        case "TimedOut":
            return TIMED_OUT
        case "Canceled":
            return INTERRUPTED
        case "Succeeded" | "Failed" as state:
            if ended.get("signal"):
                return SIGNALED + int(ended["signal"])
            code = int(ended["exitCode"])
            has_run = bool(ended.get("startTime")) and code in OWN_CODES
            return code if has_run or state == "Succeeded" else None
    return None
