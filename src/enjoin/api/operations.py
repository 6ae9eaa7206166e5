"""Routes that clients poll until what they asked for is over."""

from uuid import UUID

from starlette.responses import Response

from enjoin.api.call import JSON, RETRY_AFTER, Call, accepted
from enjoin.arm.envelope import operation_error, render_operation
from enjoin.arm.ids import ResourceId
from enjoin.arm.machine import address_of
from enjoin.arm.run_command import render_run_command
from enjoin.errors import InvalidRequest, NotFound
from enjoin.model.operation import Awaits, Operation, OperationState


async def get_operation(call: Call) -> Response:
    """GET .../operations/{operation}: 200 with the status, held while there is nothing to tell."""
    operation = await _held(call)
    headers = RETRY_AFTER if operation.state is OperationState.IN_PROGRESS else None
    return JSON(render_operation(operation), headers=headers)


async def get_operation_result(call: Call) -> Response:
    """GET .../operationresults/{operation}: 202 until it is over, then the resource, or 204 when that is gone."""
    operation = await _held(call)
    if operation.state is OperationState.IN_PROGRESS:
        return accepted(call, operation)
    if operation.state is not OperationState.SUCCEEDED:
        return JSON({"error": operation_error(operation)}, status_code=409)
    return await _resource(call, operation) or Response(status_code=204)


async def _resource(call: Call, operation: Operation) -> Response | None:
    if operation.awaits in (Awaits.DELETION, Awaits.GROUP_DELETION, Awaits.NOTHING):
        return None
    try:
        address = ResourceId.parse(operation.resource_path.rpartition(" ")[2]).as_command()
        if address is None:
            return None
        view = await call.services.commands.get(address)
        machine = await call.services.machines.get(address.machine)
    except (InvalidRequest, NotFound):
        return None
    return JSON(render_run_command(view, address_of(machine), expand_instance_view=False))


async def _held(call: Call) -> Operation:
    text = call.params["operation"]
    try:
        operation_id = UUID(text)
    except ValueError:
        message = f"The operation '{text[:80]}' was not found."
        raise NotFound(message) from None
    return await call.services.operations.hold(call.params["subscription"], operation_id)
