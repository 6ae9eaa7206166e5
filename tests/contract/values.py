"""Values for tests: each function returns a whole one, of which a test sets only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from enjoin.model.command import CommandSpec, Parameter, RunCommand, SealedValue
from enjoin.model.directory import EnrolmentToken, Principal, PrincipalRole, ResourceGroup, Subscription
from enjoin.model.execution import Execution, ExecutionState, Origin, Outcome
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Facts, Instance, Machine, MachineKind
from enjoin.model.operation import Awaits, Operation
from enjoin.model.provisioning import ProvisioningState
from enjoin.model.scale_set import ScaleSet
from enjoin.store.base import AcceptedRequest, CancelOrder, Store, Transaction

NOON: Final = datetime(2026, 3, 4, 12, 0, 0, 123456, tzinfo=UTC)
SUBSCRIPTION: Final = "00000000-AAAA-0000-0000-000000000001"
GROUP: Final = "Enjoin"


def minutes(count: float) -> timedelta:
    """Return that many minutes."""
    return timedelta(minutes=count)


def a_group(**changes: Any) -> ResourceGroup:  # noqa: ANN401 - any field
    """Return a resource group with everything set."""
    group = ResourceGroup(
        subscription_id=SUBSCRIPTION,
        name=GROUP,
        location="local",
        tags={"team": "Blau", "ü": "ß"},
        managed_by="somebody",
        revision=3,
        created_at=NOON,
    )
    return replace(group, **changes)


def a_principal(name: str, **changes: Any) -> Principal:  # noqa: ANN401 - any field
    """Return an administrator."""
    principal = Principal(
        id=new_uuid7(), client_id=str(uuid4()), name=name, role=PrincipalRole.ADMINISTRATOR, created_at=NOON
    )
    return replace(principal, **changes)


def a_token(**changes: Any) -> EnrolmentToken:  # noqa: ANN401 - any field
    """Return a token with three uses, good until an hour after NOON."""
    token = EnrolmentToken(
        hash=b"\x00\xffhash",
        subscription_id=SUBSCRIPTION,
        resource_group=GROUP,
        uses_left=3,
        expires_at=NOON + minutes(60),
        created_by=new_uuid7(),
        created_at=NOON,
    )
    return replace(token, **changes)


def a_scale_set(name: str = "Web", **changes: Any) -> ScaleSet:  # noqa: ANN401 - any field
    """Return a scale set with everything set."""
    scale_set = ScaleSet(
        id=new_uuid7(),
        subscription_id=SUBSCRIPTION,
        resource_group=GROUP,
        name=name,
        location="local",
        tags={"rack": "7"},
        created_at=NOON,
    )
    return replace(scale_set, **changes)


def an_instance(name: str, **changes: Any) -> Machine:  # noqa: ANN401 - any field
    """Return the instance SET/ID of a scale set."""
    return a_machine(name, kind=MachineKind.SCALE_SET_INSTANCE, instance=Instance.parse(name), **changes)


def a_machine(name: str = "Web1", **changes: Any) -> Machine:  # noqa: ANN401 - any field
    """Return a machine with everything set."""
    machine = Machine(
        id=new_uuid7(),
        subscription_id=SUBSCRIPTION,
        resource_group=GROUP,
        kind=MachineKind.VIRTUAL_MACHINE,
        name=name,
        location="local",
        tags={"rack": "7"},
        identity_key=b"\x00" * 32,
        sealing_key=b"\xff" * 32,
        sealing_key_id="key-1",
        epoch="epoch-1",
        journal_sequence=2**40,
        facts=Facts(
            agent_version="0.1", os_name="Debian", host_name="web1", architecture="x86_64", containment="cgroup"
        ),
        created_at=NOON,
        connected=True,
        session_epoch=3,
        status_changed_at=NOON + minutes(1),
        lease_expires_at=NOON + minutes(3),
    )
    return replace(machine, **changes)


def a_sealed_value(**changes: Any) -> SealedValue:  # noqa: ANN401 - any field
    """Return a sealed value with an id of its own."""
    value = SealedValue(
        id=new_uuid7(), name="PASSWORD", field="protectedParameters[0]", key_id="key-1", ciphertext=b"\x00\x01\xfe"
    )
    return replace(value, **changes)


def a_spec(**changes: Any) -> CommandSpec:  # noqa: ANN401 - any field
    """Return a spec with everything set but sealed values."""
    spec = CommandSpec(
        script="#!/bin/sh\necho 'hello ü \u0000 \U0001f600'\n",
        parameters=(Parameter(name="A", value=""), Parameter(name="", value="two words\n")),
        timeout_s=0,
        async_execution=True,
        treat_failure_as_deployment_failure=True,
    )
    return replace(spec, **changes)


def a_command(machine_id: UUID, name: str = "Hello", **changes: Any) -> RunCommand:  # noqa: ANN401 - any field
    """Return a run command in its first generation."""
    command = RunCommand(
        incarnation_id=new_uuid7(),
        machine_id=machine_id,
        name=name,
        location="local",
        tags={"a": "b"},
        spec=a_spec(),
        generation=1,
        execution_id=new_uuid7(),
        provisioning_state=ProvisioningState.CREATING,
        created_by="me",
        created_at=NOON,
        modified_by="you",
        modified_at=NOON + minutes(1),
        revision=4,
    )
    return replace(command, **changes)


def an_execution(**changes: Any) -> Execution:  # noqa: ANN401 - any field
    """Return a Pending execution that was never delivered, its deadline an hour after NOON."""
    execution = Execution(
        id=new_uuid7(),
        machine_id=uuid4(),
        incarnation_id=new_uuid7(),
        generation=1,
        principal_id=new_uuid7(),
        correlation_id=str(uuid4()),
        created_at=NOON,
        deadline_at=NOON + minutes(60),
    )
    return replace(execution, **changes)


def a_whole_execution(**changes: Any) -> Execution:  # noqa: ANN401 - any field
    """Return an execution with everything set."""
    execution = an_execution(
        origin=Origin.ACTION,
        client_request_id="request-1",
        state=ExecutionState.FAILED,
        message="The script ended with exit code 3.",
        next_sequence=7,
        start_number=2,
        supersedes=new_uuid7(),
        delivered_at=NOON + minutes(1),
        delivered_epoch="epoch-1",
        delivered_sequence=2**33,
        started_at=NOON + minutes(2),
        ended_at=NOON + minutes(3),
        outcome=Outcome(
            exit_code=-1,
            signal=9,
            stdout_bytes=2**40,
            stderr_bytes=5,
            stdout_tail=b"\x00\xff tail",
            stderr_tail=b"error",
        ),
        outputs={"key": "value"},
        output_place="elsewhere",
    )
    return replace(execution, **changes)


def an_operation(**changes: Any) -> Operation:  # noqa: ANN401 - any field
    """Return an operation in progress that waits for the end of an execution."""
    operation = Operation(
        id=new_uuid7(),
        subscription_id=SUBSCRIPTION,
        provider="Microsoft.Compute",
        location="local",
        resource_path="/subscriptions/S/resourceGroups/G/providers/X/y/z",
        awaits=Awaits.END,
        incarnation_id=new_uuid7(),
        execution_id=new_uuid7(),
        principal_id=new_uuid7(),
        started_at=NOON,
    )
    return replace(operation, **changes)


def a_request(**changes: Any) -> AcceptedRequest:  # noqa: ANN401 - any field
    """Return an accepted request."""
    request = AcceptedRequest(
        principal_id=UUID(int=1),
        resource_key="PUT /subscriptions/s/x",
        client_request_id="request-1",
        body_sha256=b"\x00\x01",
        operation_id=new_uuid7(),
        accepted_at=NOON,
    )
    return replace(request, **changes)


def a_cancel(**changes: Any) -> CancelOrder:  # noqa: ANN401 - any field
    """Return a cancel that forgets nothing."""
    order = CancelOrder(
        machine_id=UUID(int=1), execution_id=new_uuid7(), reason="canceled", forget=False, ordered_at=NOON
    )
    return replace(order, **changes)


Stored = (
    Subscription
    | ResourceGroup
    | Principal
    | EnrolmentToken
    | Machine
    | RunCommand
    | Execution
    | Operation
    | AcceptedRequest
    | CancelOrder
)


async def add(store: Store, *values: Stored) -> None:
    """Store `values` in their order, each in a transaction of its own."""
    for value in values:
        await store.write(partial(_add, value))


async def _add(value: Stored, tx: Transaction) -> None:  # noqa: C901 - one line a type
    match value:
        case Subscription():
            await tx.put_subscription(value)
        case ResourceGroup():
            await tx.put_group(value)
        case Principal():
            await tx.add_principal(value)
        case EnrolmentToken():
            await tx.add_token(value)
        case Machine():
            await tx.add_machine(value)
        case RunCommand():
            await tx.add_command(value)
        case Execution():
            await tx.add_execution(value)
        case Operation():
            await tx.add_operation(value)
        case AcceptedRequest():
            await tx.put_request(value)
        case CancelOrder():
            await tx.put_cancel(value)
