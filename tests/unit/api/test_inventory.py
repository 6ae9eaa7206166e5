"""Subscriptions, groups, machines, providers."""

import pytest

from enjoin.api import machines
from enjoin.model.execution import Event
from enjoin.model.machine import MachineKind
from enjoin.protocol.messages import CancelDone
from tests.unit.api.plane import URL, Plane


async def test_subscription_as_az_login_reads_it(plane: Plane) -> None:
    """
    The one subscription has every field that az keeps of it.
    """
    found = (await plane.ask("GET", "/subscriptions")).json()["value"]
    assert found == [(await plane.ask("GET", f"/SUBSCRIPTIONS/{plane.subscription_id.upper()}")).json()]
    expected = {"subscriptionId": plane.subscription_id, "tenantId": plane.services.tenant_id, "state": "Enabled"}
    assert found[0] | expected == found[0]
    assert found[0]["subscriptionPolicies"]["spendingLimit"] == "Off"
    assert found[0]["managedByTenants"] == []
    tenants = (await plane.ask("GET", "/tenants")).json()["value"]
    assert [tenant["tenantId"] for tenant in tenants] == [plane.services.tenant_id]
    locations = (await plane.ask("GET", f"/subscriptions/{plane.subscription_id}/locations")).json()["value"]
    assert [location["name"] for location in locations] == ["local"]


@pytest.mark.parametrize(
    "path",
    ["", "/locations", "/resourcegroups", "/resourcegroups/enjoin", "/providers", "/providers/Microsoft.Compute"],
)
async def test_another_subscription(plane: Plane, path: str) -> None:
    """
    A subscription that is not this server's is 404 SubscriptionNotFound.
    """
    answer = await plane.ask("GET", f"/subscriptions/00000000-0000-0000-0000-000000000001{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SubscriptionNotFound")


async def test_life_of_a_group(plane: Plane) -> None:
    """
    Created, replaced, found without regard to case, listed, deleted when empty: as az group does it.
    """
    path = f"/subscriptions/{plane.subscription_id}/resourcegroups/New"
    assert (await plane.ask("HEAD", path)).status_code == 404
    created = await plane.ask("PUT", path, {"location": "there", "tags": {"a": "b"}})
    assert created.status_code == 201
    assert created.json()["id"] == f"/subscriptions/{plane.subscription_id}/resourceGroups/New"
    assert created.json()["properties"] == {"provisioningState": "Succeeded"}
    replaced = await plane.ask("PUT", path.lower(), {"location": "THERE", "tags": {}})
    assert (replaced.status_code, replaced.json()["name"], replaced.json()["tags"]) == (200, "New", {})
    assert (await plane.ask("HEAD", path.upper())).status_code == 204
    listed = await plane.ask("GET", f"/subscriptions/{plane.subscription_id}/resourceGroups")
    assert [group["name"] for group in listed.json()["value"]] == ["enjoin", "New"]
    gone = await plane.ask("DELETE", path)
    assert (gone.status_code, gone.headers["Retry-After"]) == (202, "1")
    result = await plane.http.get(gone.headers["Location"], headers={"Authorization": f"Bearer {plane.token}"})
    assert result.status_code == 204
    for method in ("GET", "DELETE"):
        answer = await plane.ask(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceGroupNotFound")


async def test_a_group_is_deleted_with_its_machines(plane: Plane) -> None:
    """
    A group that holds machines goes with them: 202, Location and Azure-AsyncOperation until it is over.
    """
    session = await plane.connect(await plane.machine())
    await plane.put()
    execution_id = await plane.execution_id()
    await plane.report(session, execution_id, Event.STARTED)
    answer = await plane.ask("DELETE", plane.group_path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")
    assert "Azure-AsyncOperation" in answer.headers
    shown = (await plane.ask("GET", plane.group_path)).json()
    assert shown["properties"]["provisioningState"] == "Deleting"
    refused = await plane.put("c2")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ResourceGroupBeingDeleted")
    await plane.services.reports.apply(session, [CancelDone(execution_id=execution_id)])
    await plane.services.groups.advance()
    headers = {"Authorization": f"Bearer {plane.token}"}
    assert (await plane.http.get(answer.headers["Location"], headers=headers)).status_code == 204
    assert (await plane.ask("GET", plane.group_path)).status_code == 404
    assert (await plane.ask("HEAD", plane.group_path)).status_code == 404
    assert (await plane.ask("DELETE", plane.group_path)).status_code == 404


async def test_group_is_changed(plane: Plane) -> None:
    """
    PATCH merges tags, PUT replaces them; each write changes the entity tag, and conditions on it hold.
    """
    path = f"/subscriptions/{plane.subscription_id}/resourcegroups/other"
    made = await plane.ask("PUT", path, {"location": "local", "tags": {"a": "1"}}, headers={"If-None-Match": "*"})
    assert made.status_code == 201
    patched = await plane.ask("PATCH", path, {"tags": {"b": "2"}}, headers={"If-Match": made.headers["ETag"]})
    assert (patched.status_code, patched.json()["tags"]) == (200, {"a": "1", "b": "2"})
    stale = await plane.ask("PUT", path, {"tags": {}}, headers={"If-Match": made.headers["ETag"]})
    assert (stale.status_code, stale.json()["error"]["code"]) == (412, "PreconditionFailed")
    replaced = await plane.ask("PUT", path, {**patched.json(), "tags": {"c": "3"}})
    assert (replaced.status_code, replaced.json()["tags"]) == (200, {"c": "3"})
    shown = await plane.ask("GET", path)
    assert shown.json()["etag"] == shown.headers["ETag"] == replaced.headers["ETag"]
    known = await plane.ask("GET", path, headers={"If-None-Match": shown.headers["ETag"]})
    assert (known.status_code, known.content) == (304, b"")
    moved = await plane.ask("PATCH", path, {"location": "elsewhere"})
    assert moved.status_code == 409
    nobody = await plane.ask("PATCH", f"{path}x", {})
    assert nobody.json()["error"]["code"] == "ResourceGroupNotFound"


@pytest.mark.parametrize(
    ("name", "body", "status", "target"),
    [
        ("g", {}, 400, "location"),
        ("g", {"location": 1}, 400, "location"),
        ("g", {"location": "l", "tags": []}, 400, "tags"),
        ("g", [], 400, None),
        ("g.", {"location": "l"}, 400, "resourceGroupName"),
        ("x" * 91, {"location": "l"}, 400, "resourceGroupName"),
        ("a b", {"location": "l"}, 400, "resourceGroupName"),
        ("enjoin", {"location": "elsewhere"}, 409, "location"),
    ],
)
async def test_groups_refused(plane: Plane, name: str, body: object, status: int, target: str | None) -> None:
    """
    A wrong name or body is refused with its target.
    """
    answer = await plane.ask("PUT", f"/subscriptions/{plane.subscription_id}/resourcegroups/{name}", body)
    assert (answer.status_code, answer.json()["error"].get("target")) == (status, target)


async def test_vm_as_az_reads_it(plane: Plane) -> None:
    """
    A VM has what az vm list, show -d and get-instance-view read, and no network interfaces that az would look up.
    """
    machine = await plane.machine()
    path = f"{plane.group_path}/providers/Microsoft.Compute/virtualMachines/VM1"
    plain = (await plane.ask("GET", path)).json()
    assert plain["id"] == f"{plane.group_path}/providers/Microsoft.Compute/virtualMachines/vm1"
    assert (plain["type"], plain["location"]) == ("Microsoft.Compute/virtualMachines", "local")
    properties = plain["properties"]
    assert properties["vmId"] == str(machine.id)
    assert properties["storageProfile"]["osDisk"]["osType"] == "Linux"
    assert properties["networkProfile"] == {"networkInterfaces": []}
    assert "instanceView" not in properties
    away = (await plane.ask("GET", f"{path}/instanceView")).json()
    assert [status["code"] for status in away["statuses"]] == ["ProvisioningState/succeeded", "PowerState/unknown"]
    await plane.connect(machine)
    view = (await plane.ask("GET", path, expand="instanceView")).json()["properties"]["instanceView"]
    assert [status["code"] for status in view["statuses"]] == ["ProvisioningState/succeeded", "PowerState/running"]
    assert (view["osName"], view["vmAgent"]["vmAgentVersion"]) == ("Debian", "0.1.0")
    assert view["vmAgent"]["statuses"][0]["displayStatus"] == "Ready"


async def test_arc_machine(plane: Plane) -> None:
    """
    An Arc machine shows whether its agent is connected (F9, F10).
    """
    machine = await plane.machine("a1", MachineKind.ARC)
    path = f"{plane.group_path}/providers/Microsoft.HybridCompute/machines/a1"
    away = (await plane.ask("GET", path)).json()
    assert away["type"] == "Microsoft.HybridCompute/machines"
    assert away["properties"]["status"] == "Disconnected"
    await plane.connect(machine)
    here = (await plane.ask("GET", path)).json()["properties"]
    assert (here["status"], here["agentVersion"], here["machineFqdn"]) == ("Connected", "0.1.0", "vm1.example")
    assert here["enjoin"]["containment"] == "cgroup"


async def test_lists_of_machines(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each kind is listed by group and by subscription, in pages.
    """
    monkeypatch.setattr(machines, "PAGE", 2)
    for name in ("b", "a", "c"):
        await plane.machine(name)
    await plane.machine("arc", MachineKind.ARC)
    subscription = f"/subscriptions/{plane.subscription_id}"
    for scope in (subscription, plane.group_path):
        page = (await plane.ask("GET", f"{scope}/providers/Microsoft.Compute/virtualMachines")).json()
        assert page["nextLink"].startswith(URL)
        answer = await plane.http.get(page["nextLink"], headers={"Authorization": f"Bearer {plane.token}"})
        rest = answer.json()
        assert [item["name"] for item in page["value"] + rest["value"]] == ["a", "b", "c"]
        assert "nextLink" not in rest
        arcs = (await plane.ask("GET", f"{scope}/providers/Microsoft.HybridCompute/machines")).json()
        assert [item["name"] for item in arcs["value"]] == ["arc"]
    nowhere = f"{subscription}/resourceGroups/nowhere/providers/Microsoft.Compute/virtualMachines"
    missing = await plane.ask("GET", nowhere)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ResourceGroupNotFound")


@pytest.mark.parametrize("kind", list(MachineKind))
async def test_deletion_of_a_machine(plane: Plane, kind: MachineKind) -> None:
    """
    A machine is deleted with its run commands: 202 and an operation that is over; then 204.
    """
    await plane.machine("m", kind)
    await plane.ask("PUT", plane.path("c1", machine="m", kind=kind), {})
    path = plane.machine_path("m", kind)
    gone = await plane.ask("DELETE", path)
    assert gone.status_code == 202
    headers = {"Authorization": f"Bearer {plane.token}"}
    status = await plane.http.get(gone.headers["Azure-AsyncOperation"], headers=headers)
    assert status.json()["status"] == "Succeeded"
    assert (await plane.http.get(gone.headers["Location"], headers=headers)).status_code == 204
    assert (await plane.ask("GET", path)).status_code == 404
    assert (await plane.ask("DELETE", path)).status_code == 204


async def test_providers_as_az_resource_reads_them(plane: Plane) -> None:
    """
    Child types are listed, and the first api-version is no preview: az resource show takes it.
    """
    path = f"/subscriptions/{plane.subscription_id}/providers"
    listed = (await plane.ask("GET", path)).json()["value"]
    assert {"Microsoft.Compute", "Microsoft.HybridCompute"} <= {item["namespace"] for item in listed}
    compute = (await plane.ask("GET", f"{path}/Microsoft.Compute")).json()
    types = {item["resourceType"]: item for item in compute["resourceTypes"]}
    assert "virtualMachines/runCommands" in types
    assert "preview" not in types["virtualMachines"]["apiVersions"][0]
    missing = await plane.ask("GET", f"{path}/Microsoft.Nowhere")
    assert missing.status_code == 404
