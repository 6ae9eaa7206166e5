"""PATCH by the unmodified SDK for Python, which takes nothing but a 200."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.acceptance.azure_sdk import RESOURCE_GROUP, SDK, body
from tests.acceptance.processes import Agent, ControlPlane


@pytest.fixture
def sdk(server: ControlPlane) -> Iterator[SDK]:
    """Both clients, signed in."""
    with SDK(server) as sdk:
        yield sdk


def test_begin_update(sdk: SDK, vm: Agent, tmp_path: Path) -> None:
    """
    Tags run nothing; a new script runs with what was there before, the secrets too (F21).
    """
    seen = tmp_path / "seen"
    secret = [{"name": "secret", "value": "hunter2"}]
    script = f'echo "$secret" >> {seen}'
    sdk.on(vm).begin_create("patched", body(script, protectedParameters=secret)).result()
    operations: Any = sdk.compute.virtual_machine_run_commands
    tagged = operations.begin_update(RESOURCE_GROUP, vm.name, "patched", {"tags": {"a": "b"}}).result()
    assert (tagged.tags, tagged.provisioning_state) == ({"a": "b"}, "Succeeded")
    assert seen.read_text().splitlines() == ["hunter2"]
    change = {"properties": {"source": {"script": f'echo "again $secret" >> {seen}'}}}
    updated = operations.begin_update(RESOURCE_GROUP, vm.name, "patched", change).result()
    assert (updated.tags, updated.provisioning_state) == ({"a": "b"}, "Succeeded")
    assert seen.read_text().splitlines() == ["hunter2", "again hunter2"]
    assert 0 not in sdk.traffic.slept_s


def test_update_of_nothing(sdk: SDK, vm: Agent) -> None:
    """
    What is not there is not made by an update.
    """
    operations: Any = sdk.compute.virtual_machine_run_commands
    with pytest.raises(ResourceNotFoundError):
        operations.begin_update(RESOURCE_GROUP, vm.name, "nobody", {"tags": {}})


def test_conditions(sdk: SDK, vm: Agent) -> None:
    """
    A client that says what it has read does not overwrite what another wrote since.
    """
    operations: Any = sdk.compute.virtual_machine_run_commands
    headers: list[str] = []
    sdk.on(vm).begin_create("guarded", body("true")).result()
    operations.get_by_virtual_machine(
        RESOURCE_GROUP,
        vm.name,
        "guarded",
        raw_response_hook=lambda got: headers.append(got.http_response.headers["ETag"]),
    )
    operations.begin_update(RESOURCE_GROUP, vm.name, "guarded", {"tags": {"by": "another"}}).result()
    with pytest.raises(HttpResponseError) as refused:
        operations.begin_update(
            RESOURCE_GROUP, vm.name, "guarded", {"tags": {"by": "me"}}, headers={"If-Match": headers[0]}
        )
    assert (refused.value.status_code, refused.value.error and refused.value.error.code) == (412, "PreconditionFailed")
