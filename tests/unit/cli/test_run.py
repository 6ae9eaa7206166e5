"""`enjoin run` and `enjoin logs`: what is sent, what is shown, and which exit code that is."""

import json
from pathlib import Path
from typing import Any

import pytest

from enjoin.cli import streams
from enjoin.cli.run import exit_code
from tests.unit.cli.conftest import Enjoin
from tests.unit.cli.double import ARC, VM, Double, Reply, Seen

COMMAND = f"{ARC}/runCommands/c1"
RUN = ("run", "m1", "--name", "c1")
DETACHED = (*RUN, "--detach")
VIEW = f"{COMMAND}/executions/1"


@pytest.fixture
def machine(double: Double) -> Double:
    """A control plane that knows the Arc machine m1 and accepts the run command c1 on it."""
    double.add_machine()
    double.answer("PUT", COMMAND, Reply(status=201, body={"id": COMMAND}))
    return double


def sent(double: Double) -> dict[str, Any]:
    """The properties of the run command that was put."""
    [put] = double.requests("PUT", COMMAND)
    body = put.json()
    assert body["location"] == "local"
    properties: dict[str, Any] = body["properties"]
    return properties


def pieces(*parts: bytes, cut: bool = False) -> Reply:
    """A stream of these parts."""
    return Reply(pieces=parts, cut=cut)


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ({"executionState": "Succeeded", "exitCode": 0, "startTime": "t"}, 0),
        ({"executionState": "Failed", "exitCode": 1, "startTime": "t"}, 1),
        ({"executionState": "Failed", "exitCode": 255, "startTime": "t"}, 255),
        ({"executionState": "Failed", "exitCode": 125, "startTime": "t"}, 125),
        ({"executionState": "Failed", "exitCode": -1, "signal": 9, "startTime": "t"}, 137),
        ({"executionState": "Failed", "exitCode": -1, "signal": 15, "startTime": "t"}, 143),
        ({"executionState": "TimedOut", "exitCode": -1, "signal": 15, "startTime": "t"}, 124),
        ({"executionState": "Canceled", "exitCode": -1, "signal": 15, "startTime": "t"}, 130),
        ({"executionState": "Canceled", "exitCode": -1, "signal": None}, 130),
        ({"executionState": "Failed", "exitCode": -100, "signal": None}, None),
        ({"executionState": "Failed", "exitCode": -1, "signal": None}, None),
        ({"executionState": "Unknown", "exitCode": 0, "signal": None, "startTime": "t"}, None),
    ],
)
def test_exit_code(ended: dict[str, Any], code: int | None) -> None:
    """
    The script's own; 128+N for a signal; 124 timed out; 130 canceled; None, shown as 125, when nothing ran.
    """
    assert exit_code(ended) == code


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (["echo $HOME; exit 3"], "echo $HOME; exit 3"),
        (["echo", "two  words", "it's", "$HOME", ""], """echo 'two  words' 'it'"'"'s' '$HOME' ''"""),
        (["--", "x"], "-- x"),
        (["ls", "-l", "--", "-p"], "ls -l -- -p"),
        (["-o", "json"], "-o json"),
    ],
)
def test_words(machine: Double, enjoin: Enjoin, words: list[str], script: str) -> None:
    """
    One word is the script's text; several are quoted so that they arrive word for word, options and all.
    """
    assert enjoin(*DETACHED, "--", *words).code == 0
    assert sent(machine)["source"] == {"script": script}


def test_everything_sent(machine: Double, enjoin: Enjoin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Parameters keep their order and their bytes; protected ones come from the environment, the line, or a whole file.
    """
    (tmp_path / "script").write_bytes("#!/bin/sh\r\necho ä\n".encode())
    (tmp_path / "secret").write_bytes(b"two\nlines\n")
    (tmp_path / "password").write_bytes(b"pass word\n")
    monkeypatch.setenv("FROM_ENVIRONMENT", "=a=b ")
    words = ["-p", "A=1", "--arg", "first", "-p", "B=x=y\n'", "--arg", "", "--timeout", "7", "--run-as", "bob"]
    words += ["--protected", "FROM_ENVIRONMENT", "--protected", "P=v", "--protected", f"F=@{tmp_path}/secret"]
    words += ["--protected", "=nameless", "--run-as-password-file", f"{tmp_path}/password"]
    assert enjoin(*DETACHED, *words, "--script-file", f"{tmp_path}/script").code == 0
    assert sent(machine) == {
        "source": {"script": "#!/bin/sh\r\necho ä\n"},
        "asyncExecution": False,
        "parameters": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "x=y\n'"},
            {"name": "", "value": "first"},
            {"name": "", "value": ""},
        ],
        "protectedParameters": [
            {"name": "FROM_ENVIRONMENT", "value": "=a=b "},
            {"name": "P", "value": "v"},
            {"name": "F", "value": "two\nlines\n"},
            {"name": "", "value": "nameless"},
        ],
        "timeoutInSeconds": 7,
        "runAsUser": "bob",
        "runAsPassword": "pass word",
    }


def test_nothing_kept_of_an_earlier_command(machine: Double, enjoin: Enjoin) -> None:
    """
    Without --protected the secrets that an earlier command of the name was given are cleared, not kept.
    """
    assert enjoin(*DETACHED, "--", "id").code == 0
    assert sent(machine)["protectedParameters"] == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "either as -- WORDS or as --script-file"),
        (("--script-file", "f", "--", "id"), "either as -- WORDS or as --script-file"),
        (("--script-file", "/absent/file"), "cannot read /absent/file: No such file or directory"),
        (("-p", "A", "--", "id"), "-p takes NAME=VALUE, found 'A'"),
        (("-p", "=x", "--", "id"), "-p takes NAME=VALUE"),
        (("--protected", "ENJOIN_ABSENT", "--", "id"), "there is no variable ENJOIN_ABSENT"),
        (("--timeout", "0", "--", "id"), "--timeout"),
        (("--run-as-password-file", "f", "--", "id"), "needs --run-as USER"),
        (("--nonsense", "--", "id"), "--nonsense"),
        (("--name", "a/b", "--", "id"), "no name of a run command"),
    ],
)
def test_usage(machine: Double, enjoin: Enjoin, words: tuple[str, ...], complaint: str) -> None:
    """
    A wrong command line is exit 2, said in one last line, and nothing is put.
    """
    done = enjoin("run", "m1", *words)
    assert done.code == 2
    assert complaint in done.last_line
    assert done.last_line.startswith("enjoin: ")
    assert not [seen for seen in machine.seen if seen.method == "PUT"]


@pytest.mark.parametrize(
    "words", [("--", "printf \udcff"), ("-p", "A=\udcff", "--", "id"), ("--name", "\udcff", "--", "id")]
)
def test_words_that_are_no_text(machine: Double, enjoin: Enjoin, words: tuple[str, ...]) -> None:
    """
    Bytes on the command line that are not UTF-8 are refused rather than changed on the way.
    """
    done = enjoin("run", "m1", *words)
    assert (done.code, "not UTF-8" in done.last_line) == (2, True)
    assert not [seen for seen in machine.seen if seen.method == "PUT"]


def test_a_script_that_is_no_text(machine: Double, enjoin: Enjoin, tmp_path: Path) -> None:
    """
    A file that is not UTF-8 is refused with the place, as it would not arrive as it is.
    """
    (tmp_path / "binary").write_bytes(b"echo \xff")
    done = enjoin(*RUN, "--script-file", str(tmp_path / "binary"))
    assert (done.code, "byte 5 is 0xff" in done.last_line) == (2, True)
    assert machine.requests("PUT", COMMAND) == []


def test_streams(machine: Double, enjoin: Enjoin) -> None:
    """
    Each stream comes out byte for byte on its own descriptor, and a script's failure adds no line (F68).
    """
    out, err = bytes(range(256)) * 3, b"\xff\x00no newline at the end"
    outcome = {"executionState": "Failed", "exitCode": 3, "outputBytes": len(out), "errorBytes": len(err)}
    machine.add_execution(COMMAND, {"stdout": [pieces(out[:100], out[100:])], "stderr": [pieces(err)]}, **outcome)
    done = enjoin(*RUN, "--", "script")
    assert (done.code, done.stdout, done.stderr) == (3, out, err)


@pytest.mark.parametrize("cut", [True, False])
def test_interrupted_stream(machine: Double, enjoin: Enjoin, *, cut: bool) -> None:
    """
    A stream that breaks, or that a stopping control plane ends early, goes on from its offset: no byte lost or doubled.
    """
    parts = [b"one ", b"two ", b"three"]
    whole = b"".join(parts)
    answers = [pieces(b"one ", cut=cut), Reply(drop=True), pieces(b"two ", cut=cut), pieces(b"three")]
    machine.add_execution(COMMAND, {"stdout": answers}, outputBytes=len(whole))
    done = enjoin(*RUN, "--", "script")
    assert (done.code, done.stdout, done.stderr) == (0, whole, b"")
    offsets = [
        seen.query["offset"] for seen in machine.requests("GET", f"{VIEW}/output") if seen.query["stream"] == "stdout"
    ]
    assert offsets == ["0", "4", "4", "8"]


def test_outcome_unknown(machine: Double, enjoin: Enjoin) -> None:
    """
    An execution that is Unknown is exit 125 with the reason, after what had arrived of its output.
    """
    outcome = {"executionState": "Unknown", "executionMessage": "The machine fell silent.", "exitCode": 0}
    machine.add_execution(COMMAND, {"stdout": [pieces(b"begun\n")]}, **outcome)
    done = enjoin(*RUN, "--", "script")
    assert (done.code, done.stdout, done.stderr) == (125, b"begun\n", b"enjoin: The machine fell silent.\n")


def test_never_started(machine: Double, enjoin: Enjoin) -> None:
    """
    A command that could not be prepared is exit 125 with the reason; -o json shows the resource all the same.
    """
    outcome = {"executionState": "Failed", "executionMessage": "No interpreter.", "exitCode": -100, "startTime": None}
    machine.add_execution(COMMAND, {}, **outcome)
    assert (done := enjoin(*RUN, "--", "x")).code == 125
    assert done.stderr == b"enjoin: No interpreter.\n"
    machine.answer(
        "GET", COMMAND, Reply(body={"id": COMMAND, "properties": {"instanceView": outcome}, "location": "local"})
    )
    done = enjoin(*RUN, "-o", "json", "--", "x")
    assert (done.code, json.loads(done.stdout)["id"]) == (125, COMMAND)
    envelope = json.loads(done.stderr.decode().removesuffix("enjoin: No interpreter.\n"))
    assert envelope == {"error": {"code": "RunCommandNotRun", "message": "No interpreter."}}


def test_refused(machine: Double, enjoin: Enjoin) -> None:
    """
    A command that the control plane refuses is exit 125 with its message: nothing ran.
    """
    refusal = {"error": {"code": "InvalidParameter", "message": "The script has too many bytes.", "target": "x"}}
    machine.answer("PUT", COMMAND, Reply(status=400, body=refusal))
    done = enjoin(*RUN, "-o", "json", "--", "x")
    assert (done.code, done.last_line) == (125, "enjoin: The script has too many bytes.")
    assert json.loads(done.stderr.decode().removesuffix(f"{done.last_line}\n")) == refusal


def test_replaced_at_once(machine: Double, enjoin: Enjoin) -> None:
    """
    When someone else replaces the command, the execution that is followed is the one that this PUT made.
    """
    machine.add_execution(COMMAND, {"stdout": [pieces(b"mine")]}, outputBytes=4)

    def executions(_: Seen) -> Reply:
        ours = machine.requests("PUT", COMMAND)[-1].headers["x-ms-client-request-id"]
        ids = [(3, None), (2, "another"), (1, ours)]
        return Reply(body={"value": [{"properties": {"generation": g, "clientRequestId": i}} for g, i in ids]})

    machine.answer("GET", f"{COMMAND}/executions", executions)
    done = enjoin(*RUN, "--", "script")
    assert (done.code, done.stdout) == (0, b"mine")


def test_output_left_on_the_machine(machine: Double, enjoin: Enjoin, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When the script is over and its machine is gone with the rest of the output, the exit code is the script's and one
    line says what is missing: nothing hangs.
    """
    monkeypatch.setattr(streams, "ARREARS_S", 0.05)
    more = [pieces(b"some")] + [pieces()] * 200
    machine.add_execution(COMMAND, {"stdout": more}, executionState="Failed", exitCode=4, outputBytes=10)
    done = enjoin(*RUN, "--", "script")
    assert (done.code, done.stdout) == (4, b"some")
    assert "6 bytes of stdout are still on the machine" in done.last_line


def test_location_of_an_existing_command(machine: Double, enjoin: Enjoin) -> None:
    """
    A run command that was made elsewhere is replaced where it is.
    """
    machine.answer("GET", COMMAND, Reply(body={"location": "westeurope"}))
    assert enjoin(*DETACHED, "--", "id").code == 0
    assert machine.requests("PUT", COMMAND)[0].json()["location"] == "westeurope"


def test_two_machines_of_a_name(machine: Double, enjoin: Enjoin) -> None:
    """
    A bare name that fits a VM and an Arc machine is exit 2 and lists both ids; a whole id, in any case, decides.
    """
    machine.add_machine(VM)
    done = enjoin("run", "m1", "--", "id")
    assert done.code == 2
    assert ARC in done.last_line
    assert VM in done.last_line
    assert enjoin("run", ARC, "--name", "c1", "--detach", "--", "id").code == 0


@pytest.mark.parametrize(
    ("name", "code", "complaint"),
    [
        ("m2", 3, "no machine 'm2' in the resource group 'enjoin'"),
        ("set/7", 3, "no machine 'set/7'"),
        (f"{ARC[:-2]}m2", 3, "there is no machine /subscriptions/"),
        ("a/b/c", 2, "write NAME, SET/ID or a whole resource id"),
        ("set/", 2, "write NAME, SET/ID or a whole resource id"),
        ("/subscriptions/x", 2, "not the resource id of a machine"),
        (COMMAND, 2, "not the resource id of a machine"),
        ("", 2, "is no machine"),
    ],
)
def test_no_such_machine(machine: Double, enjoin: Enjoin, name: str, code: int, complaint: str) -> None:
    """
    What is no machine's name is exit 2, an absent machine exit 3 (F33); nothing is put.
    """
    done = enjoin("run", name, "--", "id")
    assert (done.code, complaint in done.last_line) == (code, True), done.last_line
    assert not [seen for seen in machine.seen if seen.method == "PUT"]


def test_scale_set_instance(double: Double, enjoin: Enjoin) -> None:
    """
    SET/ID is the instance of a scale set (F11).
    """
    instance = f"{VM.rpartition('/')[0]}ScaleSets/set/virtualMachines/7".replace(
        "virtualMachinesScale", "virtualMachineScale"
    )
    double.add_machine(instance)
    double.answer("PUT", f"{instance}/runCommands/c1", Reply(status=201, body={"id": "made"}))
    assert enjoin("run", "set/7", "--name", "c1", "--detach", "--", "id").stdout == b"made\n"


def test_logs(machine: Double, enjoin: Enjoin) -> None:
    """
    `logs` prints the streams apart, one alone with --stream, and an earlier generation when asked.
    """
    view = {"properties": {"instanceView": {"enjoin": {"generation": 1}}}}
    machine.answer("GET", COMMAND, Reply(body=view))
    streams_of = {"stdout": [pieces(b"out", cut=True), pieces(b"put")], "stderr": [pieces(b"errors")]}
    machine.add_execution(COMMAND, streams_of, outputBytes=6, errorBytes=6)
    done = enjoin("logs", "m1", "c1")
    assert (done.code, done.stdout, done.stderr) == (0, b"output", b"errors")
    asked = [(seen.query["stream"], seen.query["offset"]) for seen in machine.requests("GET", f"{VIEW}/output")]
    assert asked == [("stdout", "0"), ("stdout", "3"), ("stderr", "0")]
    done = enjoin("logs", "m1", "c1", "--stream", "stderr", "--generation", "1")
    assert (done.code, done.stdout, done.stderr) == (0, b"", b"errors")
    done = enjoin("logs", "m1", "c1", "--generation", "2")
    assert (done.code, done.stdout) == (3, b"")
