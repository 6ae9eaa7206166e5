"""JSON Schemas of bodies: what the parse functions take and the render functions give, by their name in OpenAPI.

A schema of a request says what is right; that the server takes more (any case of a name, null for absent) is not said.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from enjoin.arm.location import MAX_LOCATION_CHARACTERS
from enjoin.arm.tags import MAX_NAME_CHARACTERS, MAX_TAGS, MAX_VALUE_CHARACTERS
from enjoin.model.command import MAX_SCRIPT_BYTES, MAX_TIMEOUT_S
from enjoin.model.directory import PrincipalRole
from enjoin.model.execution import ExecutionState, Origin
from enjoin.model.operation import OperationState
from enjoin.model.provisioning import ProvisioningState

Schema = Mapping[str, object]

TEXT: Final[Schema] = {"type": "string"}
BOOLEAN: Final[Schema] = {"type": "boolean"}
WHOLE: Final[Schema] = {"type": "integer", "minimum": 0}
OBJECT: Final[Schema] = {"type": "object"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ID: Final[Schema] = {"type": "string", "format": "uuid"}
TAGS: Final[Schema] = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": MAX_NAME_CHARACTERS},
    "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARACTERS},
    "maxProperties": MAX_TAGS,
}
LOCATION: Final[Schema] = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9 _-]*$",
    "maxLength": MAX_LOCATION_CHARACTERS,
    "examples": ["local"],
}


def ref(name: str) -> Schema:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    """Return an array of these."""
    return {"type": "array", "items": items}


def shape(
    required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, *, closed: bool = True
) -> Schema:
    """Return an object with these properties and, when closed, no other."""
    schema: dict[str, object] = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        schema["required"] = sorted(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def nullable(schema: Schema) -> Schema:
    """Return what is either this or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(names: Sequence[str]) -> Schema:
    """Return a text that is one of these."""
    return {"type": "string", "enum": sorted(names)}


def page(items: Schema, **more: Schema) -> Schema:
    """Return a list as ARM gives it, page by page."""
    return shape({"value": array(items)}, {"nextLink": {"type": "string", "format": "uri"}, **more})


def resource(properties: Schema, optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return a resource as ARM shows it."""
    named = {"id": TEXT, "name": TEXT, "type": TEXT, "location": TEXT, "tags": TAGS}
    return shape({**named, "properties": properties}, optional)


def openly(**properties: Schema) -> Schema:
    """Return an object with at least these properties."""
    return shape(properties, closed=False)


_STATUS: Final = shape(
    {"code": TEXT, "level": one_of(["Info", "Warning", "Error"]), "displayStatus": TEXT, "time": TIME},
    {"message": TEXT},
)
_PARAMETER: Final = shape(
    {"value": {"type": ["string", "number", "boolean"]}},
    {"name": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}},
)
_COMMAND_REQUEST: Final = shape(
    {"source": shape({"script": {"type": "string", "minLength": 1, "maxLength": MAX_SCRIPT_BYTES // 4}})},
    {
        "parameters": {**array(_PARAMETER), "maxItems": 50},
        "protectedParameters": {**array(_PARAMETER), "maxItems": 50},
        "timeoutInSeconds": {"type": "integer", "minimum": 0, "maximum": MAX_TIMEOUT_S},
        "asyncExecution": BOOLEAN,
        "treatFailureAsDeploymentFailure": BOOLEAN,
    },
)
_INSTANCE_VIEW: Final = shape(
    {
        "executionState": one_of([*ExecutionState]),
        "executionMessage": TEXT,
        "exitCode": {"type": "integer"},
        "output": TEXT,
        "error": TEXT,
        "statuses": array(_STATUS),
        "enjoin": shape(
            {
                "executionId": ID,
                "generation": WHOLE,
                "signal": nullable(WHOLE),
                "outputBytes": WHOLE,
                "errorBytes": WHOLE,
                "outputTruncated": BOOLEAN,
                "errorTruncated": BOOLEAN,
            },
            closed=False,
        ),
    },
    {"startTime": TIME, "endTime": TIME},
)
_COMMAND: Final = shape(
    {
        "source": OBJECT,
        "parameters": array(shape({"name": TEXT, "value": TEXT})),
        "asyncExecution": BOOLEAN,
        "timeoutInSeconds": {"type": "integer"},
        "treatFailureAsDeploymentFailure": BOOLEAN,
        "provisioningState": one_of([*ProvisioningState]),
    },
    {"instanceView": ref("RunCommandInstanceView")},
)
_EXECUTION: Final = shape(
    {
        "executionId": ID,
        "generation": WHOLE,
        "origin": one_of([*Origin]),
        "executionState": one_of([*ExecutionState]),
        "executionMessage": TEXT,
        "exitCode": {"type": "integer"},
        "signal": nullable(WHOLE),
        "createdTime": TIME,
        "outputBytes": WHOLE,
        "errorBytes": WHOLE,
        "principalId": ID,
        "correlationId": TEXT,
        "clientRequestId": nullable(TEXT),
    },
    {"startTime": TIME, "endTime": TIME, "outputDroppedTime": TIME},
)
_MACHINE_PROPERTIES: Final = openly(vmId=ID, provisioningState=TEXT, enjoin=openly(status=TEXT))
_MACHINE: Final = resource(
    _MACHINE_PROPERTIES,
    {"identity": OBJECT, "kind": TEXT, "instanceId": TEXT, "sku": OBJECT, "etag": TEXT, "systemData": OBJECT},
)
_ENTRY: Final = shape(
    {"id": TEXT, "name": TEXT, "type": TEXT, "location": TEXT, "tags": TAGS},
    {"createdTime": TIME, "changedTime": TIME, "provisioningState": TEXT},
)
_GROUP: Final = resource(shape({"provisioningState": TEXT}), {"managedBy": TEXT, "etag": TEXT})
_PRINCIPAL: Final[Mapping[str, Schema]] = {
    "objectId": ID,
    "clientId": TEXT,
    "name": TEXT,
    "role": one_of([*PrincipalRole]),
    "enabled": BOOLEAN,
    "createdAt": TIME,
}
_RETENTION: Final = openly()

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Error": shape(
        {
            "error": shape(
                {"code": {"type": "string", "minLength": 1}, "message": TEXT},
                {"target": TEXT, "details": array(OBJECT)},
            )
        }
    ),
    "SignInError": shape(
        {"error": TEXT, "error_description": TEXT},
        {"error_codes": array(WHOLE), "timestamp": TEXT, "trace_id": TEXT, "correlation_id": TEXT},
    ),
    "Health": shape({"status": one_of(["alive", "ready"])}),
    "RunCommandRequest": shape({"location": LOCATION, "properties": _COMMAND_REQUEST}, {"tags": TAGS}),
    "RunCommandPatch": shape({}, {"tags": TAGS, "properties": {**_COMMAND_REQUEST, "required": []}}),
    "RunCommandInstanceView": _INSTANCE_VIEW,
    "RunCommand": resource(_COMMAND, {"etag": TEXT, "systemData": OBJECT}),
    "RunCommandList": page(ref("RunCommand")),
    "Execution": shape({"id": TEXT, "name": TEXT, "type": TEXT, "properties": _EXECUTION}),
    "ExecutionList": page(ref("Execution"), retention=_RETENTION),
    "Operation": shape(
        {"name": ID, "startTime": TIME, "status": one_of([*OperationState])},
        {"endTime": TIME, "error": openly(code=TEXT, message=TEXT)},
    ),
    "TagsRequest": shape({}, {"tags": TAGS}),
    "Machine": _MACHINE,
    "MachineList": page(ref("Machine")),
    "MachineInstanceView": openly(statuses=array(_STATUS), vmAgent=OBJECT),
    "ScaleSet": resource(openly(provisioningState=TEXT, uniqueId=ID), {"sku": OBJECT, "etag": TEXT}),
    "ScaleSetList": page(ref("ScaleSet")),
    "ScaleSetInstanceView": openly(statuses=array(_STATUS), virtualMachine=OBJECT),
    "InstanceIds": shape(
        {"instanceIds": {**array({"type": "string", "pattern": "^([0-9]{1,9}|\\*)$"}), "minItems": 1}}
    ),
    "GroupRequest": shape({"location": LOCATION}, {"tags": TAGS, "managedBy": TEXT}),
    "GroupPatch": shape({}, {"tags": TAGS}),
    "Group": _GROUP,
    "GroupList": page(ref("Group")),
    "ResourceList": page(_ENTRY),
    "EmptyList": page(OBJECT),
    "Subscription": openly(id=TEXT, subscriptionId=ID, tenantId=ID, displayName=TEXT, state=TEXT),
    "SubscriptionList": page(ref("Subscription")),
    "TenantList": page(openly(id=TEXT, tenantId=ID)),
    "LocationList": page(openly(id=TEXT, name=TEXT)),
    "Provider": openly(id=TEXT, namespace=TEXT, registrationState=TEXT, resourceTypes=array(OBJECT)),
    "ProviderList": page(ref("Provider")),
    "PrincipalRequest": shape(
        {"name": {"type": "string", "minLength": 1, "maxLength": 100}}, {"role": one_of([*PrincipalRole])}
    ),
    "Principal": shape(_PRINCIPAL),
    "PrincipalWithSecret": shape({**_PRINCIPAL, "clientSecret": TEXT}),
    "PrincipalList": page(ref("Principal")),
    "EnrolmentTokenRequest": shape(
        {"resourceGroup": {"type": "string", "minLength": 1, "examples": ["enjoin"]}},
        {
            "uses": {"type": "integer", "minimum": 1, "maximum": 1000},
            "expiresInSeconds": {"type": "integer", "minimum": 1, "maximum": 3650 * 86400},
        },
    ),
    "EnrolmentToken": shape({"token": TEXT, "expiresAt": TIME, "uses": WHOLE}),
    "EnrolmentRequest": shape(
        {
            "token": TEXT,
            "name": TEXT,
            "kind": TEXT,
            "identityKey": TEXT,
            "sealingKey": TEXT,
            "epoch": TEXT,
            "proof": TEXT,
        },
        {"resourceGroup": TEXT, "tags": TAGS, "replace": BOOLEAN},
    ),
    "Enrolment": shape({"machineId": ID, "resourceId": TEXT, "serverName": TEXT, "sealingKeyId": TEXT}),
    "TokenRequest": shape(
        {"grant_type": one_of(["client_credentials"]), "client_id": TEXT, "client_secret": TEXT},
        {"scope": TEXT, "resource": TEXT},
    ),
    "Token": openly(token_type=TEXT, expires_in=WHOLE, access_token=TEXT),
    "PublicKeys": openly(keys=array(OBJECT)),
    "SignInDocument": openly(issuer=TEXT, token_endpoint=TEXT, jwks_uri=TEXT),
    "CloudMetadata": {"anyOf": [OBJECT, array(OBJECT)]},
    "OpenAPI": openly(openapi=TEXT, info=OBJECT, paths=OBJECT, components=OBJECT),
}
