"""Between rows and values: what a column holds, for every database alike."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from enjoin.model.command import CommandSpec, Parameter, RunCommand, SealedValue
from enjoin.model.execution import Execution, ExecutionState, Origin, Outcome
from enjoin.model.machine import Facts, Instance, Machine, MachineKind
from enjoin.model.operation import Awaits, Operation, OperationState
from enjoin.model.provisioning import ProvisioningState

Value = str | int | bytes | None  # what a placeholder is given
Row = Sequence[Any]  # columns in the order of the statement, typed by the functions below

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def instant(at: datetime) -> int:
    """Return microseconds since 1970."""
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def instant_or_none(at: datetime | None) -> int | None:
    """Return microseconds since 1970, or None."""
    return None if at is None else instant(at)


def moment(instant_us: int) -> datetime:
    """Return the time of `instant`, in UTC."""
    return _EPOCH + timedelta(microseconds=instant_us)


def moment_or_none(instant_us: int | None) -> datetime | None:
    """Return the time of `instant`, in UTC, or None."""
    return None if instant_us is None else moment(instant_us)


def text_or_none(identifier: UUID | None) -> str | None:
    """Return a UUID as the databases hold it, or None."""
    return None if identifier is None else str(identifier)


def uuid_or_none(text: str | None) -> UUID | None:
    """Return the UUID of `text`, or None."""
    return None if text is None else UUID(text)


_strings = msgspec.json.Decoder(dict[str, str])
_facts = msgspec.json.Decoder(Facts)
_encoder = msgspec.json.Encoder()


def json_of(value: Mapping[str, str] | Facts) -> str:
    """Return `value` as JSON."""
    return _encoder.encode(value).decode()


def strings(text: str) -> Mapping[str, str]:
    """Return the object of strings in `text`."""
    return _strings.decode(text) if text != "{}" else {}


# --- specs ------------------------------------------------------------------------------------------------------------


class _StoredSpec(msgspec.Struct, omit_defaults=True):
    """A spec as JSON. A sealed value is there by its id: its ciphertext has a table of its own."""

    script: str
    parameters: list[tuple[str, str]] = []
    sealed: list[UUID] = []
    timeout_s: int | None = None
    async_execution: bool = False
    treat_failure_as_deployment_failure: bool = False


_stored_spec = msgspec.json.Decoder(_StoredSpec)


def spec_text(spec: CommandSpec) -> str:
    """Return `spec` without its ciphertexts."""
    stored = _StoredSpec(
        script=spec.script,
        parameters=[(parameter.name, parameter.value) for parameter in spec.parameters],
        sealed=[value.id for value in spec.protected],
        timeout_s=spec.timeout_s,
        async_execution=spec.async_execution,
        treat_failure_as_deployment_failure=spec.treat_failure_as_deployment_failure,
    )
    return _encoder.encode(stored).decode()


def sealed_ids(text: str) -> Sequence[UUID]:
    """Return the ids of the sealed values that a stored spec refers to, in its order."""
    return _stored_spec.decode(text).sealed if '"sealed"' in text else ()


def spec_of(text: str, sealed: Mapping[UUID, SealedValue]) -> CommandSpec:
    """Return the spec; of its sealed values those that are still there."""
    stored = _stored_spec.decode(text)
    return CommandSpec(
        script=stored.script,
        parameters=tuple(Parameter(name=name, value=value) for name, value in stored.parameters),
        protected=tuple(sealed[identifier] for identifier in stored.sealed if identifier in sealed),
        timeout_s=stored.timeout_s,
        async_execution=stored.async_execution,
        treat_failure_as_deployment_failure=stored.treat_failure_as_deployment_failure,
    )


def sealed_value_of(row: Row) -> SealedValue:
    """Return the sealed value in `row`."""
    return SealedValue(id=UUID(row[0]), name=row[1], field=row[2], key_id=row[3], ciphertext=row[4])


# --- resources --------------------------------------------------------------------------------------------------------


def command_of(row: Row, spec: CommandSpec) -> RunCommand:
    """Return the run command in `row`; its last column, the stored spec, is given apart."""
    return RunCommand(
        incarnation_id=UUID(row[0]),
        machine_id=UUID(row[1]),
        name=row[2],
        location=row[3],
        tags=strings(row[4]),
        spec=spec,
        generation=row[5],
        execution_id=UUID(row[6]),
        provisioning_state=ProvisioningState(row[7]),
        created_by=row[8],
        created_at=moment(row[9]),
        modified_by=row[10],
        modified_at=moment(row[11]),
        revision=row[12],
    )


def machine_of(row: Row) -> Machine:
    """Return the machine in `row`, under the address in `row`."""
    return Machine(
        id=UUID(row[0]),
        subscription_id=row[1],
        resource_group=row[2],
        kind=MachineKind(row[3]),
        name=row[4],
        location=row[5],
        tags=strings(row[6]),
        identity_key=row[7],
        sealing_key=row[8],
        sealing_key_id=row[9],
        epoch=row[10],
        journal_sequence=row[11],
        facts=_facts.decode(row[12]),
        created_at=moment(row[13]),
        connected=bool(row[14]),
        session_epoch=row[15],
        status_changed_at=moment(row[16]),
        lease_expires_at=moment_or_none(row[17]),
        instance=_instance_of(row[4], row[18]),
    )


def _instance_of(name: str, number: int | None) -> Instance | None:
    """Return the place of a machine in its scale set, SET/ID or SET_ID being `name`."""
    if number is None:
        return None
    return Instance(scale_set=name[: -len(str(number)) - 1], number=number)


def execution_of(row: Row) -> Execution:
    """Return the execution in `row`."""
    return Execution(
        id=UUID(row[0]),
        machine_id=UUID(row[1]),
        incarnation_id=UUID(row[2]),
        generation=row[3],
        origin=Origin(row[4]),
        principal_id=UUID(row[5]),
        correlation_id=row[6],
        client_request_id=row[7],
        created_at=moment(row[8]),
        deadline_at=moment(row[9]),
        state=ExecutionState(row[10]),
        message=row[11],
        next_sequence=row[12],
        start_number=row[13],
        supersedes=uuid_or_none(row[14]),
        delivered_at=moment_or_none(row[15]),
        delivered_epoch=row[16],
        delivered_sequence=row[17],
        started_at=moment_or_none(row[18]),
        ended_at=moment_or_none(row[19]),
        outcome=Outcome(
            exit_code=row[20],
            signal=row[21],
            stdout_bytes=row[22],
            stderr_bytes=row[23],
            stdout_tail=row[24],
            stderr_tail=row[25],
        ),
        outputs=strings(row[26]),
        output_place=row[27],
        output_dropped_at=moment_or_none(row[28]),
    )


def operation_of(row: Row) -> Operation:
    """Return the operation in `row`."""
    return Operation(
        id=UUID(row[0]),
        subscription_id=row[1],
        provider=row[2],
        location=row[3],
        resource_path=row[4],
        awaits=Awaits(row[5]),
        incarnation_id=uuid_or_none(row[6]),
        execution_id=uuid_or_none(row[7]),
        principal_id=UUID(row[8]),
        state=OperationState(row[9]),
        error_code=row[10],
        error_message=row[11],
        started_at=moment(row[12]),
        ended_at=moment_or_none(row[13]),
        deadline_at=moment_or_none(row[14]),
    )
