"""The description of what is served, in OpenAPI 3.1: made from the route table, so that it cannot lag behind."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from enjoin import __version__
from enjoin.api.routing import Entry, Guarded, Handler, OpenHandler, services_of
from enjoin.arm.schemas import SCHEMAS, Schema, ref

_PARAMETER: Final = re.compile(r"\{(\w+)(?::[^{}]+)?\}")
JSON_TYPE: Final = "application/json"
NO_BODY: Final = ""
BYTES: Final = "bytes"
PLAIN: Final = "text"
_CONTENT: Final[Mapping[str, Schema]] = {
    BYTES: {"application/octet-stream": {"schema": {}}},
    PLAIN: {"text/plain": {"schema": {"type": "string"}}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a handler takes and gives, beside the error envelope."""

    gives: Mapping[int, str] = field(default_factory=dict)  # status -> schema, NO_BODY, BYTES or PLAIN
    takes: str | None = None  # the body's schema
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    form: bool = False
    error: str = "Error"


_LONG: Final = {202: NO_BODY, 204: NO_BODY}
_WRITTEN: Final = ("If-Match", "If-None-Match")
# By the handler's name. One that is missing is in the document all the same, without bodies; a test finds it.
DESCRIBED: Final[Mapping[str, Described]] = {
    "put_run_command": Described(
        gives={200: "RunCommand", 201: "RunCommand"}, takes="RunCommandRequest", headers=_WRITTEN
    ),
    "get_run_command": Described(
        gives={200: "RunCommand", 304: NO_BODY}, query=("$expand",), headers=("If-None-Match",)
    ),
    "patch_run_command": Described(gives={200: "RunCommand"}, takes="RunCommandPatch", headers=_WRITTEN),
    "delete_run_command": Described(gives=_LONG, headers=_WRITTEN),
    "list_run_commands": Described(gives={200: "RunCommandList"}, query=("$expand", "$skiptoken")),
    "cancel_run_command": Described(gives={202: "Execution"}),
    "list_executions": Described(gives={200: "ExecutionList"}, query=("$skiptoken",)),
    "get_execution": Described(gives={200: "Execution"}),
    "get_output": Described(gives={200: BYTES, 206: BYTES}, query=("stream", "offset", "follow"), headers=("Range",)),
    "get_operation": Described(gives={200: "Operation"}),
    "get_operation_result": Described(gives={200: "RunCommand", **_LONG}),
    "get_machine": Described(gives={200: "Machine"}, query=("$expand",)),
    "change_machine": Described(gives={200: "Machine"}, takes="TagsRequest"),
    "delete_machine": Described(gives=_LONG),
    "get_vm_instance_view": Described(gives={200: "MachineInstanceView"}),
    "list_machines": Described(gives={200: "MachineList"}, query=("$expand", "$skiptoken", "statusOnly")),
    "list_scale_sets": Described(gives={200: "ScaleSetList"}, query=("$skiptoken",)),
    "get_scale_set": Described(gives={200: "ScaleSet"}),
    "change_scale_set": Described(gives={200: "ScaleSet"}, takes="TagsRequest"),
    "delete_scale_set": Described(gives=_LONG),
    "delete_instances": Described(gives=_LONG, takes="InstanceIds"),
    "get_instance_view": Described(gives={200: "ScaleSetInstanceView"}),
    "list_instances": Described(gives={200: "MachineList"}, query=("$expand", "$skiptoken")),
    "list_groups": Described(gives={200: "GroupList"}, query=("$filter",)),
    "get_group": Described(gives={200: "Group", 304: NO_BODY}, headers=("If-None-Match",)),
    "head_group": Described(gives={204: NO_BODY, 404: NO_BODY}),
    "put_group": Described(gives={200: "Group", 201: "Group"}, takes="GroupRequest", headers=_WRITTEN),
    "patch_group": Described(gives={200: "Group"}, takes="GroupPatch", headers=_WRITTEN),
    "delete_group": Described(gives=_LONG, headers=_WRITTEN),
    "list_resources": Described(gives={200: "ResourceList"}, query=("$filter", "$expand", "$top", "$skiptoken")),
    "list_locks": Described(gives={200: "EmptyList"}),
    "refuse_action": Described(),
    "refuse_catalogue": Described(),
    "list_subscriptions": Described(gives={200: "SubscriptionList"}),
    "get_subscription": Described(gives={200: "Subscription"}),
    "list_tenants": Described(gives={200: "TenantList"}),
    "list_locations": Described(gives={200: "LocationList"}),
    "list_providers": Described(gives={200: "ProviderList"}),
    "get_provider": Described(gives={200: "Provider"}),
    "list_principals": Described(gives={200: "PrincipalList"}),
    "create_principal": Described(gives={201: "PrincipalWithSecret"}, takes="PrincipalRequest"),
    "delete_principal": Described(gives={204: NO_BODY}),
    "create_enrolment_token": Described(gives={201: "EnrolmentToken"}, takes="EnrolmentTokenRequest"),
    "enrol": Described(gives={201: "Enrolment"}, takes="EnrolmentRequest"),
    "get_health": Described(gives={200: "Health"}),
    "get_readiness": Described(gives={200: "Health"}),
    "get_metrics": Described(gives={200: PLAIN}),
    "get_description": Described(gives={200: "OpenAPI"}),
    "get_metadata": Described(gives={200: "CloudMetadata"}, query=("api-version",)),
    "get_openid_configuration": Described(gives={200: "SignInDocument"}),
    "get_public_keys": Described(gives={200: "PublicKeys"}),
    "post_token": Described(gives={200: "Token"}, takes="TokenRequest", form=True, error="SignInError"),
}
_QUERY: Final[Mapping[str, Schema]] = {
    "api-version": {"type": "string", "minLength": 1, "examples": ["2024-11-01"]},
    "$expand": {"type": "string", "examples": ["instanceView"]},
    "$skiptoken": {"type": "string"},
    "$filter": {"type": "string", "examples": ["resourceType eq 'Microsoft.Compute/virtualMachines'"]},
    "$top": {"type": "integer", "minimum": 1},
    "statusOnly": {"type": "string", "enum": ["true", "false"]},
    "stream": {"type": "string", "enum": ["stdout", "stderr"]},
    "offset": {"type": "integer", "minimum": 0},
    "follow": {"type": "boolean"},
}
_PATH: Final[Mapping[str, Schema]] = {
    "subscription": {"type": "string", "format": "uuid"},
    "operation": {"type": "string", "format": "uuid"},
    "principal": {"type": "string", "format": "uuid"},
    "generation": {"type": "integer", "minimum": 1},
    "authority": {"type": "string", "examples": ["adfs"], "enum": ["adfs", "common", "organizations"]},
    "namespace": {"type": "string", "examples": ["Microsoft.Compute"], "minLength": 1},
    "command": {"type": "string", "pattern": "^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_-])?$"},
}


async def get_description(request: Request) -> Response:
    """GET /enjoin/v1/openapi.json: this description."""
    body: bytes = request.app.state.openapi
    return Response(body.replace(b'"{server}"', msgspec.json.encode(services_of(request).public_url)), headers=_TYPE)


_TYPE: Final = {"Content-Type": "application/json; charset=utf-8"}


def encode(table: Iterable[Entry]) -> bytes:
    """Return the description as JSON, `{server}` standing for the public URL."""
    return msgspec.json.encode(describe(table))


def describe(table: Iterable[Entry]) -> Mapping[str, object]:
    """Return the description of a route table."""
    paths: dict[str, dict[str, object]] = {}
    used: dict[str, Schema] = {}
    for entry in table:
        path = _PARAMETER.sub(r"{\1}", entry.path)
        names = _PARAMETER.findall(entry.path)
        used |= {name: _PATH.get(name, {"type": "string", "minLength": 1}) for name in names}
        operations = paths.setdefault(path, {"parameters": [_parameter_ref(name) for name in names]})
        operations[entry.method.lower()] = _operation(entry, path)
    parameters = {name: _parameter(name, "path", schema) for name, schema in used.items()}
    parameters |= {_key("query", name): _parameter(name, "query", schema) for name, schema in _QUERY.items()}
    headers = ("If-Match", "If-None-Match", "Range")
    parameters |= {_key("header", name): _parameter(name, "header", {"type": "string"}) for name in headers}
    schemes = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Enjoin",
            "version": __version__,
            "description": "Azure's run commands as software that anyone can host. Errors are the ARM envelope.",
        },
        "servers": [{"url": "{server}"}],
        "paths": paths,
        "components": {"schemas": SCHEMAS, "parameters": parameters, "securitySchemes": schemes},
    }


def _operation(entry: Entry, path: str) -> Mapping[str, object]:
    is_guarded = isinstance(entry.endpoint, Guarded)
    handler = handler_of(entry)
    described = DESCRIBED.get(handler.__name__, Described())
    query = (("api-version",) if is_guarded else ()) + described.query
    operation: dict[str, object] = {
        "operationId": f"{entry.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', path)}",
        "summary": (inspect.getdoc(handler) or "").partition("\n")[0],
        "parameters": [
            *(_parameter_ref(_key("query", name)) for name in query),
            *(_parameter_ref(_key("header", name)) for name in described.headers),
        ],
        "responses": {
            **{str(status): _response(name) for status, name in described.gives.items()},
            "default": _response(described.error),
        },
        "security": [{"token": []}] if is_guarded else [],
    }
    if isinstance(entry.endpoint, Guarded):
        operation["x-permission"] = entry.endpoint.permission
    if described.takes is not None:
        kind = "application/x-www-form-urlencoded" if described.form else JSON_TYPE
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": ref(described.takes)}}}
    return operation


def handler_of(entry: Entry) -> Handler | OpenHandler:
    """Return the function that answers."""
    return entry.endpoint.handler if isinstance(entry.endpoint, Guarded) else entry.endpoint


def _response(name: str) -> Mapping[str, object]:
    if name == NO_BODY:
        return {"description": "No body."}
    if name in _CONTENT:
        return {"description": f"The {name}.", "content": _CONTENT[name]}
    return {"description": name, "content": {JSON_TYPE: {"schema": ref(name)}}}


def _key(place: str, name: str) -> str:
    """Return the name of a component, in which OpenAPI has no `$`."""
    return f"{place}.{name.removeprefix('$')}"


def _parameter(name: str, place: str, schema: Schema) -> Schema:
    return {"name": name, "in": place, "required": place == "path" or name == "api-version", "schema": schema}


def _parameter_ref(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}
