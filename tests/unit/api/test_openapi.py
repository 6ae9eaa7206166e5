"""The OpenAPI description is whole, and what is answered is what it says."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import httpx
import jsonschema_rs
import pytest

from enjoin.api.app import TABLE
from enjoin.api.openapi import DESCRIBED, describe, handler_of
from enjoin.arm.schemas import SCHEMAS
from enjoin.model.execution import Event
from enjoin.model.machine import MachineKind
from tests.unit.api.plane import URL, VERSION, Plane

DOCUMENT: Final[Mapping[str, Any]] = json.loads(json.dumps(describe(TABLE)))


def references(value: object) -> Iterator[str]:
    """Return every reference within."""
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_route_is_in_it() -> None:
    """
    The description has each line of the route table, and no other.
    """
    written = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    }
    assert written == {(entry.method, re.sub(r":[^{}]+\}", "}", entry.path)) for entry in TABLE}


def test_every_handler_is_described() -> None:
    """
    Each handler has its bodies described: a new one is added to DESCRIBED in enjoin/api/openapi.py.
    """
    assert {handler_of(entry).__name__ for entry in TABLE} == DESCRIBED.keys()


def test_it_is_one_document() -> None:
    """
    Every reference leads somewhere, every schema is used, and no operation has the name of another.
    """
    found = set(references(DOCUMENT))
    components = DOCUMENT["components"]
    known = {f"#/components/{kind}/{name}" for kind in ("schemas", "parameters") for name in components[kind]}
    assert found == known
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for kind in components.values() for name in kind)
    names = [
        operation["operationId"]
        for operations in DOCUMENT["paths"].values()
        for method, operation in operations.items()
        if method != "parameters"
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name: str) -> None:
    """
    Each schema is one of JSON Schema 2020-12.
    """
    assert jsonschema_rs.meta.is_valid(json.loads(json.dumps(SCHEMAS[name])))


async def test_it_is_served(plane: Plane) -> None:
    """
    Anyone may read it; the server that it names is the public URL.
    """
    answer = await plane.http.get("/enjoin/v1/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json()["servers"] == [{"url": URL}]
    assert answer.json()["paths"].keys() == DOCUMENT["paths"].keys()


def validator(schema: object) -> jsonschema_rs.Validator:
    """Return what checks a schema of the document."""
    return jsonschema_rs.validator_for({"components": DOCUMENT["components"], **json.loads(json.dumps(schema))})


def check(answer: httpx.Response, template: str) -> None:
    """Assert that an answer is one that the description has."""
    operation = DOCUMENT["paths"][template][answer.request.method.lower()]
    described = operation["responses"].get(str(answer.status_code), operation["responses"]["default"])
    if not answer.content:
        assert "content" not in described, (template, answer)
        return
    ((kind, media),) = described["content"].items()
    assert answer.headers["content-type"].partition(";")[0] == kind
    if kind == "application/json":
        validator(media["schema"]).validate(answer.json())


S: Final = "/subscriptions/{subscription}"
G: Final = S + "/resourceGroups/{group}"
VM: Final = G + "/providers/Microsoft.Compute/virtualMachines/{machine}"
ARC: Final = G + "/providers/Microsoft.HybridCompute/machines/{machine}"
COMMAND: Final = "/runCommands/{command}"
TOUR: Final = (  # of what can be asked once there are machines with a command that ran
    *("/subscriptions", S, "/tenants", f"{S}/locations", f"{S}/providers", f"{S}/resourceGroups", G, f"{S}/resources"),
    *(VM, ARC, f"{VM}/instanceView", f"{VM}/runCommands", f"{ARC}/runCommands", f"{G}/resources"),
    *(f"{VM}{COMMAND}", f"{ARC}{COMMAND}", f"{VM}{COMMAND}/executions", f"{VM}{COMMAND}/executions/{{generation}}"),
    *(f"{VM}{COMMAND}/executions/{{generation}}/output", f"{S}/providers/{{namespace}}", f"{VM.rpartition('/')[0]}"),
    *(f"{S}/providers/Microsoft.HybridCompute/machines", f"{S}/providers/Microsoft.Authorization/locks"),
    *("/enjoin/v1/principals", "/healthz", "/readyz", "/metrics", "/metadata/endpoints", "/enjoin/v1/openapi.json"),
    *("/{authority}/.well-known/openid-configuration", "/{authority}/discovery/keys"),
    f"{S}/providers/{{namespace}}/locations/{{location}}/runCommands",
    f"{G}/providers/Microsoft.Compute/virtualMachineScaleSets",
)  # fmt: skip


@pytest.mark.parametrize("template", TOUR)
async def test_answers_are_as_described(plane: Plane, template: str) -> None:
    """
    What is answered, and an error in its place, is what the description says.
    """
    kind = MachineKind.ARC if "HybridCompute" in template else MachineKind.VIRTUAL_MACHINE
    machine = await plane.machine("vm1", kind)
    session = await plane.connect(machine)
    body = {"location": "local", "tags": {"a": "b"}, "properties": {"source": {"script": "true"}}}
    put = await plane.ask("PUT", plane.path("c1", kind=kind), body)
    check(put, (VM if kind is MachineKind.VIRTUAL_MACHINE else ARC) + COMMAND)
    shown = await plane.ask("GET", plane.path("c1", kind=kind), expand="instanceView")
    check(shown, (VM if kind is MachineKind.VIRTUAL_MACHINE else ARC) + COMMAND)
    execution_id = UUID(shown.json()["properties"]["instanceView"]["enjoin"]["executionId"])
    await plane.output(session, execution_id, b"hello")
    await plane.report(session, execution_id, Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    values = {
        "subscription": plane.subscription_id,
        "group": "enjoin",
        "machine": "vm1",
        "command": "c1",
        "generation": "1",
        "namespace": "Microsoft.Compute",
        "location": "local",
        "authority": "adfs",
    }
    path = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)
    check(await plane.ask("GET", path, expand="instanceView"), template)
    check(await plane.http.get(path, params={"api-version": VERSION}), template)  # 401, where it is not public
    check(await plane.ask("GET", path.replace("vm1", "nobody")), template)
