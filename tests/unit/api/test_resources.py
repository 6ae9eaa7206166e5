"""Generic resources, locks, and filters of groups, as `az resource` and `az lock` ask for them."""

from typing import Any

import pytest

from enjoin.api import resource_lists
from enjoin.model.machine import MachineKind
from tests.unit.api.plane import URL, Plane, command_body

COMPUTE, HYBRID = "Microsoft.Compute/virtualMachines", "Microsoft.HybridCompute/machines"


@pytest.fixture
async def fleet(plane: Plane) -> Plane:
    """A VM with two run commands, and an Arc machine with one."""
    await plane.machine("vm1")
    await plane.machine("arc1", MachineKind.ARC)
    for name in ("one", "two"):
        await plane.ask("PUT", plane.path(name), {**command_body(), "tags": {"Team": name}})
    await plane.ask("PUT", plane.path("one", machine="arc1", kind=MachineKind.ARC), command_body())
    return plane


async def listed(plane: Plane, scope: str = "", **query: str) -> list[dict[str, Any]]:
    """Return all entries below a scope, over all pages."""
    names = {name if name == "expand" else f"${name}": value for name, value in query.items()}  # as `ask` wants it
    path = scope or f"/subscriptions/{plane.subscription_id}"
    page = (await plane.ask("GET", f"{path}/resources", query=names)).json()
    found: list[dict[str, Any]] = page["value"]
    while "nextLink" in page:
        assert page["nextLink"].startswith(URL)
        page = (await plane.http.get(page["nextLink"], headers={"Authorization": f"Bearer {plane.token}"})).json()
        found += page["value"]
    return found


@pytest.mark.parametrize("page", [1, 2, 3, 200])
async def test_all_of_them_in_pages(fleet: Plane, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """
    Machines and their run commands are listed once each, whatever the size of a page, by subscription and by group.
    """
    monkeypatch.setattr(resource_lists, "PAGE", page)
    names = ["arc1", "arc1/one", "vm1", "vm1/one", "vm1/two"]
    for scope in ("", fleet.group_path):
        assert [entry["name"] for entry in await listed(fleet, scope)] == names
    assert [entry["name"] for entry in await listed(fleet, top=str(page))] == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["arc1", "arc1/one", "vm1", "vm1/one", "vm1/two"]),
        ("resourceGroup eq 'ENJOIN'", ["arc1", "arc1/one", "vm1", "vm1/one", "vm1/two"]),
        ("resourceGroup eq 'other'", []),
        (f"resourceType eq '{COMPUTE}'", ["vm1"]),
        (f"resourceType eq '{HYBRID.lower()}'", ["arc1"]),
        (f"resourceType eq '{COMPUTE}/runCommands'", ["vm1/one", "vm1/two"]),
        ("name eq 'vm1'", ["vm1"]),
        ("name eq 'one'", ["arc1/one", "vm1/one"]),
        ("name eq 'vm1/one'", ["vm1/one"]),
        (f"resourceGroup eq 'enjoin' and resourceType eq '{COMPUTE}/runcommands' and name eq 'two'", ["vm1/two"]),
        ("tagName eq 'team'", ["vm1/one", "vm1/two"]),
        ("tagName eq 'team' and tagValue eq 'two'", ["vm1/two"]),
        ("location eq 'Local' and name eq 'vm1'", ["vm1"]),
        ("location eq 'elsewhere'", []),
        ("name eq 'it''s'", []),
    ],
)
async def test_filters(fleet: Plane, text: str, names: list[str]) -> None:
    """
    The filters that az and the SDKs send, alone and joined by `and`, without regard to case.
    """
    assert [entry["name"] for entry in await listed(fleet, filter=text)] == names


@pytest.mark.parametrize(
    "text", ["name", "name eq vm1", "name eq 'a' or name eq 'b'", "name ne 'a'", "name eq 'a' and", "x eq 'a'", "and"]
)
async def test_filters_that_are_not_done(plane: Plane, text: str) -> None:
    """
    What this server does not do is refused, never ignored: a filter that is passed over shows what nobody asked for.
    """
    for path in ("resources", "resourceGroups"):
        answer = await plane.ask("GET", f"/subscriptions/{plane.subscription_id}/{path}", query={"$filter": text})
        assert (answer.status_code, answer.json()["error"]["target"]) == (400, "$filter")


async def test_entries(fleet: Plane) -> None:
    """
    An entry has id, type, location and tags; times and state when `$expand` asks for them.
    """
    plain = (await listed(fleet, filter="name eq 'vm1/one'"))[0]
    assert plain["id"] == f"{fleet.path('one')}"
    assert (plain["type"], plain["location"], plain["tags"]) == (f"{COMPUTE}/runCommands", "local", {"Team": "one"})
    assert "createdTime" not in plain
    expanded = await listed(fleet, filter="", expand="createdTime,changedTime,provisioningState")
    assert {entry["provisioningState"] for entry in expanded} == {"Succeeded", "Creating"}
    assert all(entry["createdTime"] and entry["changedTime"] for entry in expanded)


@pytest.mark.parametrize("query", [{"$top": "0"}, {"$top": "x"}, {"$skiptoken": "e30="}])
async def test_bad_queries(plane: Plane, query: dict[str, str]) -> None:
    """
    A page that cannot be is refused.
    """
    answer = await plane.ask("GET", f"/subscriptions/{plane.subscription_id}/resources", query=query)
    assert answer.status_code == 400


async def test_group_that_is_not_there(plane: Plane) -> None:
    """
    The resources of no group are not an empty list.
    """
    answer = await plane.ask("GET", f"{plane.group_path}x/resources")
    assert answer.json()["error"]["code"] == "ResourceGroupNotFound"


async def test_groups_by_tag(plane: Plane) -> None:
    """
    `az group list --tag` finds groups by a tag.
    """
    groups = f"/subscriptions/{plane.subscription_id}/resourcegroups"
    await plane.ask("PUT", f"{groups}/tagged", {"location": "local", "tags": {"a": "1"}})
    query = {"$filter": "tagName eq 'A' and tagValue eq '1'"}
    found = (await plane.ask("GET", groups, query=query)).json()["value"]
    assert [group["name"] for group in found] == ["tagged"]


@pytest.mark.parametrize("page", [1, 2, 200])
async def test_scale_sets(fleet: Plane, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """
    A scale set is a resource, and each of its instances as the VM that it is too, with its run commands.
    """
    monkeypatch.setattr(resource_lists, "PAGE", page)
    await fleet.machine("web/7", MachineKind.SCALE_SET_INSTANCE)
    await fleet.ask("PUT", fleet.path("c", machine="web_7"), command_body())
    found = [(entry["type"].rpartition("/")[2], entry["name"]) for entry in await listed(fleet)]
    assert found[0] == ("virtualMachineScaleSets", "web")
    assert found[-2:] == [("virtualMachines", "web_7"), ("runCommands", "web_7/c")]
    assert len(found) == len(set(found)) == 8
    sets = await listed(fleet, filter="resourceType eq 'Microsoft.Compute/virtualMachineScaleSets'")
    assert [entry["name"] for entry in sets] == ["web"]


async def test_no_locks(fleet: Plane) -> None:
    """
    Every scope has an empty list of locks.
    """
    machine = fleet.path().removesuffix("/runCommands")
    for scope in (f"/subscriptions/{fleet.subscription_id}", fleet.group_path, machine, fleet.path("one")):
        answer = await fleet.ask("GET", f"{scope}/providers/Microsoft.Authorization/locks")
        assert (answer.status_code, answer.json()) == (200, {"value": []})


async def test_show_by_type_with_doubled_slashes(fleet: Plane) -> None:
    """
    `az resource show --resource-type` sends `//` where a parent would be: it means nothing.
    """
    path = f"{fleet.group_path}/providers/Microsoft.Compute//virtualMachines/vm1"
    assert (await fleet.ask("GET", path)).json()["name"] == "vm1"
    path = f"{fleet.group_path}/providers/Microsoft.Compute/virtualMachines/vm1//runCommands/one/"
    assert (await fleet.ask("GET", path)).json()["name"] == "one"
