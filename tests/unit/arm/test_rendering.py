"""What clients are shown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjoin.arm.discovery import render_metadata, render_openid_configuration
from enjoin.arm.execution import decode_tail
from enjoin.arm.ids import ResourceId, command_id_path, machine_id_path
from enjoin.arm.run_command import render_run_command
from enjoin.errors import InvalidRequest
from enjoin.model.address import CommandAddress, MachineAddress
from enjoin.model.command import CommandSpec, CommandView, Parameter, RunCommand, SealedValue
from enjoin.model.execution import Execution, ExecutionState, Outcome
from enjoin.model.machine import MachineKind
from enjoin.model.provisioning import ProvisioningState

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ID = UUID(int=7)
MACHINE = MachineAddress(subscription_id="5ab", resource_group="Group", kind=MachineKind.VIRTUAL_MACHINE, name="Vm1")
SEALED = SealedValue(id=ID, name="password", field="protectedParameters[0]", key_id="k", ciphertext=b"sealed")
COMMAND = RunCommand(
    incarnation_id=ID,
    machine_id=ID,
    name="C1",
    location="local",
    tags={"a": "b"},
    spec=CommandSpec(script="echo $x", parameters=(Parameter(name="x", value="1"),), protected=(SEALED,), timeout_s=-5),
    generation=3,
    execution_id=ID,
    provisioning_state=ProvisioningState.CREATING,
    created_by="me",
    created_at=NOON,
    modified_by="you",
    modified_at=NOON + timedelta(seconds=1),
)
PENDING = Execution(
    id=ID,
    machine_id=ID,
    incarnation_id=ID,
    generation=3,
    principal_id=ID,
    correlation_id="c",
    created_at=NOON,
    deadline_at=NOON,
    message="Waiting.",
)
ENDED = replace(
    PENDING, state=ExecutionState.FAILED, started_at=NOON, ended_at=NOON + timedelta(seconds=2), message="It failed."
)


def shown(execution: Execution, received: dict[str, int] | None = None, **tails: bytes) -> dict[str, Any]:
    """Return the instance view of an execution."""
    view = CommandView(
        command=COMMAND,
        execution=execution,
        received_bytes=received or {stream: len(tail) for stream, tail in tails.items()},
        tails=tails,
    )
    body: Any = render_run_command(view, MACHINE, expand_instance_view=True)
    instance_view: dict[str, Any] = body["properties"]["instanceView"]
    return instance_view


def test_resource() -> None:
    """
    The resource as ARM shows it; what was given as timeout is echoed, and nothing of a protected value is there (F28).
    """
    view = CommandView(command=COMMAND, execution=PENDING, received_bytes={}, tails={})
    body = render_run_command(view, MACHINE, expand_instance_view=False)
    assert body == {
        "id": "/subscriptions/5ab/resourceGroups/Group/providers/Microsoft.Compute/virtualMachines/Vm1/runCommands/C1",
        "name": "C1",
        "type": "Microsoft.Compute/virtualMachines/runCommands",
        "location": "local",
        "tags": {"a": "b"},
        "etag": '"00000000000000000000000000000007-3-1.Creating"',
        "systemData": {
            "createdBy": "me",
            "createdByType": "Application",
            "createdAt": "2026-11-20T12:00:00+00:00",
            "lastModifiedBy": "you",
            "lastModifiedByType": "Application",
            "lastModifiedAt": "2026-11-20T12:00:01+00:00",
        },
        "properties": {
            "source": {"script": "echo $x"},
            "parameters": [{"name": "x", "value": "1"}],
            "asyncExecution": False,
            "timeoutInSeconds": -5,
            "treatFailureAsDeploymentFailure": False,
            "provisioningState": "Creating",
        },
    }


def test_pending() -> None:
    """
    Before the start every field is there but the times; exitCode is 0 (F66, F67).
    """
    view = shown(PENDING)
    assert (view["executionState"], view["executionMessage"], view["exitCode"]) == ("Pending", "Waiting.", 0)
    assert (view["output"], view["error"]) == ("", "")
    assert "startTime" not in view
    assert view["statuses"][0]["code"] == "ExecutionState/pending"
    assert view["enjoin"] == {
        "executionId": str(ID),
        "generation": 3,
        "signal": None,
        "outputBytes": 0,
        "errorBytes": 0,
        "outputTruncated": False,
        "errorTruncated": False,
    }


def test_ended() -> None:
    """
    After the end: the script's own exit code, both streams apart, both times (F66, F68).
    """
    outcome = Outcome(exit_code=12, stdout_bytes=3, stderr_bytes=3, stdout_tail=b"out", stderr_tail=b"err")
    view = shown(replace(ENDED, outcome=outcome), stdout=b"out", stderr=b"err")
    assert (view["exitCode"], view["output"], view["error"]) == (12, "out", "err")
    assert (view["startTime"], view["endTime"]) == ("2026-11-20T12:00:00+00:00", "2026-11-20T12:00:02+00:00")


def test_ended_by_a_signal() -> None:
    """
    A signal shows in a field of ours; exitCode is -1.
    """
    view = shown(replace(ENDED, outcome=Outcome(exit_code=-1, signal=9)))
    assert (view["exitCode"], view["enjoin"]["signal"]) == (-1, 9)


def test_ended_without_having_run() -> None:
    """
    What never ran did not end with 0.
    """
    assert shown(replace(ENDED, started_at=None))["exitCode"] == -1


def test_the_end_is_known_before_the_output_is_here() -> None:
    """
    The machine's own tail stands in for output that has not arrived, and its whole size is told.
    """
    outcome = Outcome(exit_code=0, stdout_bytes=10_000, stdout_tail=b"x" * 4096)
    view = shown(replace(ENDED, outcome=outcome), {"stdout": 5}, stdout=b"begin")
    assert view["output"] == "x" * 4096
    assert (view["enjoin"]["outputBytes"], view["enjoin"]["outputTruncated"]) == (10_000, True)


def test_tail_of_a_long_stream() -> None:
    """
    Of a long stream the last 4,096 bytes are shown, cut between characters (F70).
    """
    whole = ("é" * 5000).encode()
    view = shown(replace(PENDING, state=ExecutionState.RUNNING), {"stdout": 10_001}, stdout=(b"x" + whole)[-4095:])
    assert view["output"] == "é" * 2047
    assert view["enjoin"] | {"outputBytes": 10_001, "outputTruncated": True} == view["enjoin"]


@pytest.mark.parametrize(
    ("tail", "text"),
    [(b"\xa9abc", "abc"), (b"\x82\xacabc", "abc"), (b"\x9f\x98\x80abc", "abc"), (b"\x80" * 8, "\ufffd" * 8)],
)
def test_cut_at_the_front(tail: bytes, text: str) -> None:
    """
    The rest of a character that the cut split is left out; bytes that never were text are not.
    """
    assert decode_tail(tail, begins_inside=True, may_go_on=False) == text


@pytest.mark.parametrize(("character", "size"), [("é", 2), ("€", 3), ("😀", 4)])
def test_cut_at_the_end(character: str, size: int) -> None:
    """
    A character whose rest is still on its way waits; when nothing more can come it is shown as broken.
    """
    for length in range(1, size):
        tail = b"abc" + character.encode()[:length]
        assert decode_tail(tail, begins_inside=False, may_go_on=True) == "abc"
        assert decode_tail(tail, begins_inside=False, may_go_on=False).startswith("abc\ufffd")
    assert decode_tail(character.encode(), begins_inside=False, may_go_on=True) == character


@given(tail=st.binary(max_size=64), begins_inside=st.booleans(), may_go_on=st.booleans())
def test_any_tail(tail: bytes, *, begins_inside: bool, may_go_on: bool) -> None:
    """
    Any bytes become text, and no more than one character at each edge is left out.
    """
    text = decode_tail(tail, begins_inside=begins_inside, may_go_on=may_go_on)
    start = 3 if begins_inside else 0
    end = len(tail) - 3 if may_go_on else len(tail)
    assert len(text) >= len(tail[start:end].decode(errors="ignore"))


@given(text=st.text(min_size=1, max_size=80), cut=st.integers(0, 80))
def test_text_survives_any_cut(text: str, cut: int) -> None:
    """
    Text that is cut anywhere in front is a suffix of itself.
    """
    whole = text.encode()
    tail = whole[min(cut, len(whole)) :]
    assert text.endswith(decode_tail(tail, begins_inside=cut > 0, may_go_on=False))


def test_ids_without_regard_to_case() -> None:
    """
    Ids are equal whatever their letter case (F30).
    """
    text = command_id_path(CommandAddress(machine=MACHINE, name="C1"))
    read = ResourceId.parse(text)
    assert str(read) == text
    assert read == ResourceId.parse(text.upper())
    assert hash(read) == hash(ResourceId.parse(text.lower()))
    assert read.as_command() == CommandAddress(machine=MACHINE, name="C1")
    assert read.parent().as_machine() == MACHINE
    assert (read.type, read.name) == ("Microsoft.Compute/virtualMachines/runCommands", "C1")
    assert ResourceId.parse("/subscriptions/S/resourceGroups/G").name == "G"
    assert ResourceId.parse(machine_id_path(MACHINE)).as_command() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "x",
        "/subscriptions",
        "/subscriptions/s/x/y",
        "/subscriptions/s/resourceGroups/g/providers/p",
        "/subscriptions/s/resourceGroups/g/providers/p/t",
    ],
)
def test_no_ids(text: str) -> None:
    """
    What is no id is refused.
    """
    with pytest.raises(InvalidRequest, match="not a resource id"):
        ResourceId.parse(text)


@given(text=st.text(alphabet="/ab", max_size=40) | st.text(max_size=60))
def test_any_id(text: str) -> None:
    """
    Any text is an id that reads back the same, or is refused.
    """
    try:
        read = ResourceId.parse(text)
    except InvalidRequest:
        return
    assert ResourceId.parse(str(read)) == read


def test_metadata_shapes() -> None:
    """
    One object from 2022 on, the same in an array before, a short one for PowerShell; the login endpoint ends in /adfs.
    """
    new = render_metadata("https://e", "2022-09-01")
    old = render_metadata("https://e", "2019-05-01")
    first = render_metadata("https://e", "1.0")
    assert isinstance(new, dict)
    assert old == [new]
    assert isinstance(first, dict)
    assert set(first) == {"galleryEndpoint", "graphEndpoint", "portalEndpoint", "authentication"}
    for document in (new, first):
        authentication: Any = document["authentication"]
        assert authentication["loginEndpoint"] == "https://e/adfs"
        assert authentication["audiences"][0] == "https://e"
    assert new["microsoftGraphResourceId"], "unset, az role assignment fails"


def test_openid_configuration() -> None:
    """
    Both authorities name a token endpoint below themselves.
    """
    assert render_openid_configuration("https://e", "adfs")["token_endpoint"] == "https://e/adfs/oauth2/token"
    assert render_openid_configuration("https://e", "t")["token_endpoint"] == "https://e/t/oauth2/v2.0/token"
