"""One PUT on its way: what was asked, its secrets sealed, and the run command that it makes."""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from enjoin.errors import Conflict, InvalidField, LocationRequired
from enjoin.model.address import Caller, CommandAddress, Trace
from enjoin.model.command import CommandRequest, CommandSpec, RunCommand, SealedValue
from enjoin.model.entity_tag import Precondition
from enjoin.model.execution import Execution
from enjoin.model.machine import Machine
from enjoin.model.provisioning import Change, ProvisioningState, change


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """One PUT, with its secrets sealed for what was there a moment ago."""

    caller: Caller
    address: CommandAddress
    request: CommandRequest
    trace: Trace
    precondition: Precondition
    machine: Machine
    incarnation_id: UUID  # of the command that was there, else of the one to be made
    is_update: bool
    merged_with: int | None  # the revision that a PATCH was merged with; None for a PUT
    sealed: tuple[SealedValue, ...] | None


def waiting_message(machine: Machine) -> str:
    """Return why an execution that was just accepted does not run yet."""
    if machine.connected:
        return "Waiting for the machine to start it."
    return "The machine is not connected; the command waits for it."


def only_tags(put: Put, current: RunCommand) -> bool:
    """Whether a PATCH leaves what is to be run as it is. Secrets that were sent count as changed: nobody can tell."""
    request, spec = put.request, current.spec
    return (
        not (put.sealed or (put.sealed is not None and spec.protected))
        and request.script == spec.script
        and request.parameters == spec.parameters
        and (request.timeout_s or 0) == (spec.timeout_s or 0)
        and request.async_execution == spec.async_execution
        and request.treat_failure_as_deployment_failure == spec.treat_failure_as_deployment_failure
    )


def retagged(put: Put, current: RunCommand, *, now: datetime) -> RunCommand:
    """Return the run command with the tags of `put`, and nothing to run; raise Conflict."""
    _check_location(current, put.request)
    if current.provisioning_state is ProvisioningState.DELETING:
        text = f"The run command '{current.name}' is being deleted."
        raise Conflict(text)
    return replace(
        current,
        tags=put.request.tags,
        revision=current.revision + 1,
        modified_by=put.caller.client_id,
        modified_at=now,
    )


def _check_location(current: RunCommand, request: CommandRequest) -> None:
    if request.location and request.location.lower() != current.location.lower():
        text = (
            f"The run command '{current.name}' is in location '{current.location}'; it cannot be moved to "
            f"'{request.location}'."
        )
        raise Conflict(text, target="location")


def new_command(put: Put, machine: Machine, current: RunCommand | None, execution: Execution) -> RunCommand:
    """Return the run command after `put`; raise InvalidField, LocationRequired or Conflict."""
    request, now = put.request, execution.created_at
    if current is None and request.location is None:
        text = "The location property is required for this definition."
        raise LocationRequired(text, target="location")
    if current is not None:
        _check_location(current, request)
    protected = put.sealed
    if protected is None:
        protected = current.spec.protected if current else ()
        if any(value.key_id != machine.sealing_key_id for value in protected):
            text = (
                "The stored protected parameters were sealed to an earlier key of the machine; send the secrets again."
            )
            raise InvalidField(text, target="properties.protectedParameters")
    spec = CommandSpec(
        script=request.script,
        parameters=request.parameters,
        protected=protected,
        timeout_s=request.timeout_s,
        async_execution=request.async_execution,
        treat_failure_as_deployment_failure=request.treat_failure_as_deployment_failure,
    )
    if current is not None:
        return replace(
            current,
            tags=request.tags,
            spec=spec,
            generation=execution.generation,
            revision=current.revision + 1,
            execution_id=execution.id,
            provisioning_state=change(current.provisioning_state, Change.REPLACED),
            modified_by=put.caller.client_id,
            modified_at=now,
        )
    return RunCommand(
        incarnation_id=put.incarnation_id,
        machine_id=machine.id,
        name=put.address.name,
        location=request.location or "",
        tags=request.tags,
        spec=spec,
        generation=1,
        execution_id=execution.id,
        provisioning_state=ProvisioningState.CREATING,
        created_by=put.caller.client_id,
        created_at=now,
        modified_by=put.caller.client_id,
        modified_at=now,
    )
