"""The body of a run command: what a PUT means, and what a GET shows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from enjoin.arm.envelope import ENJOIN, Body, is_at_least, time_text
from enjoin.arm.execution import exit_code, render_times, stream_view
from enjoin.arm.ids import COMMAND_TYPES, command_id_path
from enjoin.arm.location import read_location
from enjoin.arm.merge_patch import merged
from enjoin.arm.properties import Number, Properties, is_given, kind_of
from enjoin.arm.tags import read_tags
from enjoin.errors import InvalidField, NotSupportedYet
from enjoin.model.address import CommandAddress, MachineAddress
from enjoin.model.command import (
    MAX_PARAMETER_BYTES,
    MAX_SCRIPT_BYTES,
    MAX_TIMEOUT_S,
    CommandRequest,
    CommandSpec,
    CommandView,
    Parameter,
    RunCommand,
    Secret,
    check_parameters,
)
from enjoin.model.entity_tag import command_tag
from enjoin.model.execution import ExecutionState
from enjoin.model.machine import MachineKind

_TREATS_FAILURE_SINCE: Final = "2023-03-01"  # the api-version that brought treatFailureAsDeploymentFailure
_SOURCES: Final = ("script", "scriptUri", "commandId", "galleryScriptReferenceId")
_LATER: Final[Mapping[str, str]] = {  # properties of this version's clients that this server does not do yet
    "runAsUser": "Running as another user",
    "runAsPassword": "Running as another user",
    "outputBlobUri": "Writing the output to a blob",
    "errorBlobUri": "Writing the output to a blob",
    "outputBlobManagedIdentity": "A managed identity",
    "errorBlobManagedIdentity": "A managed identity",
}
_SOURCE_LATER: Final[Mapping[str, str]] = {
    "scriptUri": "A script that is read from a URI",
    "scriptUriManagedIdentity": "A managed identity",
    "commandId": "A built-in command",
    "galleryScriptReferenceId": "A script from a gallery",
}
_LEVELS: Final[Mapping[ExecutionState, str]] = {
    ExecutionState.FAILED: "Error",
    ExecutionState.TIMED_OUT: "Error",
    ExecutionState.UNKNOWN: "Warning",
    ExecutionState.CANCELED: "Warning",
}


def parse_run_command(body: object, *, api_version: str, kind: MachineKind) -> CommandRequest:  # noqa: ARG001 - scale sets and Arc will differ
    """Return what a PUT asks for; raise InvalidRequest, naming the property, when it cannot be done."""
    resource = Properties(body, "")
    location, tags = read_location(resource), read_tags(resource)
    properties = resource.child("properties")
    for name, what in _LATER.items():
        _refuse_later(properties, name, what)
    script = _read_script(properties.child("source"))
    public = tuple(Parameter(name=n, value=v) for n, v in _read_parameters(properties, "parameters") or ())
    secret = _read_parameters(properties, "protectedParameters")
    protected = None if secret is None else tuple(Secret(name=n, value=v) for n, v in secret)
    _check_sizes(public, protected or ())
    treat_failure = properties.boolean("treatFailureAsDeploymentFailure")
    return CommandRequest(
        location=location,
        tags=tags,
        script=script,
        parameters=public,
        protected=protected,
        timeout_s=properties.integer("timeoutInSeconds", minimum=-MAX_TIMEOUT_S - 1, maximum=MAX_TIMEOUT_S),
        async_execution=properties.boolean("asyncExecution"),
        treat_failure_as_deployment_failure=treat_failure and is_at_least(api_version, _TREATS_FAILURE_SINCE),
    )


def parse_patch(body: object, current: RunCommand, *, api_version: str, kind: MachineKind) -> CommandRequest:
    """Return what a PATCH asks for, merged with what is there: what it does not name stays as it is.

    A source of another kind than the stored one takes its place, so that nobody has to send null for that one.
    """
    properties = _render_spec(current.spec)
    given = Properties(body, "").child("properties").child("source")
    if any(is_given(given.raw(name)) for name in _SOURCES):
        properties["source"] = {}
    shown = {"location": current.location, "tags": dict(current.tags), "properties": properties}
    request = parse_run_command(merged(shown, body), api_version=api_version, kind=kind)
    if not is_at_least(api_version, _TREATS_FAILURE_SINCE):  # this client does not know of it
        request = replace(request, treat_failure_as_deployment_failure=current.spec.treat_failure_as_deployment_failure)
    return request


def _refuse_later(properties: Properties, name: str, what: str) -> None:
    if is_given(properties.raw(name)):
        text = f"{what} ('{properties.path(name)}') is not supported by this version of Enjoin; leave it out."
        raise NotSupportedYet(text, target=properties.path(name))


def _read_script(source: Properties) -> str:
    given = [name for name in _SOURCES if is_given(source.raw(name))]
    if len(given) > 1:
        text = f"The source names {' and '.join(given)}; exactly one of them is allowed."
        raise InvalidField(text, target="properties.source")
    for name, what in _SOURCE_LATER.items():
        _refuse_later(source, name, what)
    shell = source.text("scriptShell")
    if shell is not None and shell.lower() != "default":
        text = f"The script shell {shell[:40]!r} is not supported by this version of Enjoin; only 'Default' is."
        raise NotSupportedYet(text, target="properties.source.scriptShell")
    script = source.text("script")
    if script is None:
        text = "The run command has no source; give the script in 'properties.source.script'."
        raise InvalidField(text, target="properties.source")
    size_bytes = len(script.encode())
    if size_bytes > MAX_SCRIPT_BYTES:
        text = f"The script has {size_bytes} bytes; at most {MAX_SCRIPT_BYTES} are allowed."
        raise InvalidField(text, target="properties.source.script")
    return script


def _read_parameters(properties: Properties, name: str) -> list[tuple[str, str]] | None:
    items = properties.array(name)
    if items is None:
        return None
    return [_read_parameter(item, f"{properties.path(name)}[{at}]") for at, item in enumerate(items)]


def _read_parameter(item: object, target: str) -> tuple[str, str]:
    if item is None:
        text = "The parameter is null; it has to be an object with a name and a value."
        raise InvalidField(text, target=target)
    parameter = Properties(item, target)
    return parameter.text("name") or "", _value_text(parameter)


def _value_text(parameter: Properties) -> str:
    value = parameter.raw("value")
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case Number():
            return value.text
        case int():
            return str(value)
    found = kind_of(value) if parameter.has("value") else "missing"
    text = (
        f'The parameter value is {found}; it has to be a string, a number, true or false (write "" for an empty one).'
    )
    raise InvalidField(text, target=parameter.path("value"))


def _check_sizes(public: tuple[Parameter, ...], protected: tuple[Secret, ...]) -> None:
    total_bytes = check_parameters(public, target="properties.parameters")
    total_bytes += check_parameters(protected, target="properties.protectedParameters")
    if total_bytes > MAX_PARAMETER_BYTES:
        text = f"The parameters have {total_bytes} bytes together; at most {MAX_PARAMETER_BYTES} are allowed."
        raise InvalidField(text, target="properties.parameters")


def render_run_command(view: CommandView, machine: MachineAddress, *, expand_instance_view: bool) -> Body:
    """Return the resource. Protected values are not in it; `machine` is in the spelling that the id is to have."""
    command = view.command
    properties = {**_render_spec(command.spec), "provisioningState": command.provisioning_state.value}
    if expand_instance_view:
        properties["instanceView"] = render_instance_view(view)
    return {
        "id": command_id_path(CommandAddress(machine=machine, name=command.name)),
        "name": command.name,
        "type": COMMAND_TYPES[machine.kind],
        "location": command.location,
        "tags": command.tags,
        "etag": str(command_tag(command)),
        "systemData": {
            "createdBy": command.created_by,
            "createdByType": "Application",
            "createdAt": time_text(command.created_at),
            "lastModifiedBy": command.modified_by,
            "lastModifiedByType": "Application",
            "lastModifiedAt": time_text(command.modified_at),
        },
        "properties": properties,
    }


def _render_spec(spec: CommandSpec) -> Body:
    return {
        "source": {"script": spec.script},
        "parameters": [{"name": parameter.name, "value": parameter.value} for parameter in spec.parameters],
        "asyncExecution": spec.async_execution,
        "timeoutInSeconds": spec.timeout_s or 0,
        "treatFailureAsDeploymentFailure": spec.treat_failure_as_deployment_failure,
    }


def render_instance_view(view: CommandView) -> Body:
    """Return what became of the current execution, with the end of its output so far."""
    execution = view.execution
    stdout, stderr = stream_view(view, "stdout"), stream_view(view, "stderr")
    ended_or_now = execution.ended_at or execution.started_at or execution.created_at
    return {
        "executionState": execution.state.value,
        "executionMessage": execution.message,
        "exitCode": exit_code(execution),
        "output": stdout.text,
        "error": stderr.text,
        **render_times(execution),
        "statuses": [
            {
                "code": f"ExecutionState/{execution.state.value.lower()}",
                "level": _LEVELS.get(execution.state, "Info"),
                "displayStatus": f"Execution {execution.state.value}",
                "message": execution.message,
                "time": time_text(ended_or_now),
            }
        ],
        ENJOIN: {
            "executionId": str(execution.id),
            "generation": execution.generation,
            "signal": execution.outcome.signal,
            "outputBytes": stdout.total_bytes,
            "errorBytes": stderr.total_bytes,
            "outputTruncated": stdout.is_cut,
            "errorTruncated": stderr.is_cut,
        },
    }
