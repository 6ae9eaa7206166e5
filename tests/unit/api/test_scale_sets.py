"""Scale sets and their instances over HTTP."""

import pytest

from enjoin.api import machines, scale_sets
from enjoin.model.execution import Event
from enjoin.model.machine import MachineKind
from tests.unit.api.plane import URL, Plane, command_body

INSTANCE = MachineKind.SCALE_SET_INSTANCE


async def test_a_scale_set_as_az_reads_it(plane: Plane) -> None:
    """
    A set is shown and listed with as many machines as have joined (F11).
    """
    await plane.machine("Web/0", INSTANCE)
    await plane.connect(await plane.machine("web/1", INSTANCE))
    shown = (await plane.ask("GET", plane.scale_set_path("WEB"))).json()
    assert shown["id"] == plane.scale_set_path("Web")
    assert (shown["name"], shown["type"]) == ("Web", "Microsoft.Compute/virtualMachineScaleSets")
    assert (shown["sku"]["capacity"], shown["properties"]["orchestrationMode"]) == (2, "Flexible")
    subscription = f"/subscriptions/{plane.subscription_id}"
    for scope in (subscription, plane.group_path):
        listed = await plane.ask("GET", f"{scope}/providers/Microsoft.Compute/virtualMachineScaleSets")
        assert listed.json() == {"value": [shown]}
    view = (await plane.ask("GET", f"{plane.scale_set_path('web')}/instanceView")).json()
    assert view["virtualMachine"]["statusesSummary"] == [
        {"code": "ProvisioningState/succeeded", "count": 2},
        {"code": "PowerState/running", "count": 1},
        {"code": "PowerState/unknown", "count": 1},
    ]


async def test_lists_in_pages(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Sets and instances are listed in pages to the end, instances by number.
    """
    monkeypatch.setattr(scale_sets, "PAGE", 1)
    for name in ("web/10", "web/2", "db/0"):
        await plane.machine(name, INSTANCE)

    async def names(path: str) -> list[str]:
        found = []
        page = (await plane.ask("GET", path)).json()
        while True:
            found += [item["name"] for item in page["value"]]
            if "nextLink" not in page:
                return found
            assert page["nextLink"].startswith(URL)
            headers = {"Authorization": f"Bearer {plane.token}"}
            page = (await plane.http.get(page["nextLink"], headers=headers)).json()

    assert await names(plane.scale_set_path()) == ["db", "web"]
    assert await names(f"{plane.scale_set_path('web')}/virtualMachines") == ["web_2", "web_10"]
    wrong = await plane.ask("GET", f"{plane.scale_set_path('web')}/virtualMachines", query={"$skiptoken": "YWJj"})
    assert (wrong.status_code, wrong.json()["error"]["target"]) == (400, "$skiptoken")


async def test_one_machine_two_ids(plane: Plane) -> None:
    """
    An instance is also a VM; each id names itself, and the VM says whose instance it is (F11).
    """
    machine = await plane.machine("Web/0", INSTANCE)
    as_instance = (await plane.ask("GET", plane.machine_path("web/0", INSTANCE))).json()
    as_vm = (await plane.ask("GET", plane.machine_path("WEB_0"))).json()
    assert as_instance["id"] == plane.machine_path("Web/0", INSTANCE)
    assert (as_instance["instanceId"], as_instance["name"]) == ("0", "Web_0")
    assert as_instance["type"] == "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
    assert as_vm["id"] == plane.machine_path("Web_0")
    assert as_vm["type"] == "Microsoft.Compute/virtualMachines"
    assert as_vm["properties"]["virtualMachineScaleSet"] == {"id": plane.scale_set_path("Web")}
    assert "instanceId" not in as_vm
    assert as_vm["properties"]["vmId"] == as_instance["properties"]["vmId"] == str(machine.id)
    listed = await plane.ask("GET", f"{plane.group_path}/providers/Microsoft.Compute/virtualMachines")
    assert [item["id"] for item in listed.json()["value"]] == [as_vm["id"]]
    for path in (plane.machine_path("web/0", INSTANCE), plane.machine_path("web_0")):
        view = (await plane.ask("GET", f"{path}/instanceView")).json()
        assert view["statuses"][1]["code"] == "PowerState/unknown"


async def test_run_commands_under_both_ids(plane: Plane) -> None:
    """
    A run command of an instance is one, whichever id it is reached by, and is named by the id that was asked for (F11).
    """
    session = await plane.connect(await plane.machine("web/0", INSTANCE))
    as_instance = plane.path("c1", machine="web/0", kind=INSTANCE)
    as_vm = plane.path("c1", machine="web_0")
    made = await plane.ask("PUT", as_instance, command_body())
    assert (made.status_code, made.json()["id"]) == (201, as_instance)
    assert made.json()["type"] == "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/runCommands"
    again = await plane.ask("PUT", as_vm, command_body("echo again"))
    assert (again.status_code, again.json()["id"]) == (200, as_vm)
    for path, kind in ((as_instance, "virtualMachineScaleSets/virtualMachines"), (as_vm, "virtualMachines")):
        shown = (await plane.ask("GET", path, expand="instanceView")).json()
        assert (shown["id"], shown["type"]) == (path, f"Microsoft.Compute/{kind}/runCommands")
        assert shown["properties"]["source"]["script"] == "echo again"
        listed = (await plane.ask("GET", path.removesuffix("/c1"))).json()["value"]
        assert [item["id"] for item in listed] == [path]
        executions = (await plane.ask("GET", f"{path}/executions")).json()["value"]
        assert [item["id"] for item in executions] == [f"{path}/executions/2", f"{path}/executions/1"]
    execution_id = executions[0]["properties"]["executionId"]
    await plane.output(session, execution_id, b"again\n")
    await plane.report(session, execution_id, Event.STARTED)
    for path in (as_instance, as_vm):
        output = await plane.ask("GET", f"{path}/executions/2/output", stream="stdout")
        assert output.content == b"again\n"
    canceled = await plane.ask("POST", f"{as_instance}/cancel")
    assert (canceled.status_code, canceled.json()["id"]) == (202, f"{as_instance}/executions/2")
    deleted = await plane.ask("DELETE", as_vm)
    assert deleted.status_code == 202
    assert (await plane.ask("GET", as_instance)).json()["properties"]["provisioningState"] == "Deleting"


@pytest.mark.parametrize("name", ["web/1", "web/00", "web/x", "none/0"])
async def test_no_such_instance(plane: Plane, name: str) -> None:
    """
    Without such an instance there is nothing, and nothing can be put below it; the message names its type and path.
    """
    await plane.machine("web/0", INSTANCE)
    missing = await plane.ask("GET", plane.machine_path(name, INSTANCE))
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "ResourceNotFound")
    scale_set, _, number = name.partition("/")
    below = f"Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/{number}"
    assert f"'{below}'" in missing.json()["error"]["message"]
    refused = await plane.ask("PUT", plane.path("c1", machine=name, kind=INSTANCE), command_body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "ParentResourceNotFound")
    assert below in refused.json()["error"]["message"]
    assert (await plane.ask("GET", f"{plane.scale_set_path('none')}/virtualMachines")).status_code == 404


@pytest.mark.parametrize("kind", [*MachineKind, None])
async def test_tags(plane: Plane, kind: MachineKind | None) -> None:
    """
    A PATCH merges tags without regard to case (RFC 7396), a PUT of what a GET showed replaces them, and both say so.
    """
    await plane.machine("m", kind or INSTANCE)
    path = plane.scale_set_path("m") if kind is None else plane.machine_path("m", kind)
    answer = await plane.ask("PATCH", path, {"tags": {"a": "1", "b": "2", "c": "3"}})
    assert (answer.status_code, answer.json()["tags"]) == (200, {"a": "1", "b": "2", "c": "3"})
    answer = await plane.ask("PATCH", path, {"tags": {"B": None, "C": "4"}, "location": "LOCAL"})
    tags = answer.json()["tags"]
    assert {name.lower(): value for name, value in tags.items()} == {"a": "1", "c": "4"}
    unchanged = await plane.ask("PATCH", path, {})
    shown = (await plane.ask("GET", path)).json()
    assert unchanged.json() == shown == answer.json()
    replaced = await plane.ask("PUT", path, {**shown, "tags": {"d": "5"}})
    assert (replaced.status_code, replaced.json()) == (200, {**shown, "tags": {"d": "5"}})
    assert (await plane.ask("PATCH", path, {"tags": None})).json()["tags"] == {}


async def test_tags_are_the_machine_s(plane: Plane) -> None:
    """
    A machine with two ids has one set of tags.
    """
    await plane.machine("web/0", INSTANCE)
    await plane.ask("PATCH", plane.machine_path("web_0"), {"tags": {"a": "1"}})
    assert (await plane.ask("GET", plane.machine_path("web/0", INSTANCE))).json()["tags"] == {"a": "1"}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("body", "status", "target"),
    [
        ({"location": "elsewhere"}, 409, "location"),
        ({"sku": {"capacity": 3}}, 400, "sku.capacity"),
        ({"properties": {"hardwareProfile": {"vmSize": "Big"}}}, 400, "properties.hardwareProfile.vmSize"),
        ({"tags": {"a": 1}}, 400, "tags.a"),
        ({"tags": {f"t{number}": "" for number in range(51)}}, 400, "tags"),
        ({"tags": "a"}, 400, "tags"),
        ({"properties": []}, 400, "properties"),
        ([], 400, None),
    ],
)
async def test_changes_refused(plane: Plane, method: str, body: object, status: int, target: str | None) -> None:
    """
    What cannot be changed is refused and named, not passed over; nothing is changed.
    """
    await plane.machine("web/0", INSTANCE)
    is_of_machine = target is None or not target.startswith("sku")
    path = plane.machine_path("web/0", INSTANCE) if is_of_machine else plane.scale_set_path("web")
    before = (await plane.ask("GET", path)).json()
    answer = await plane.ask(method, path, body)
    assert (answer.status_code, answer.json()["error"].get("target")) == (status, target)
    assert (await plane.ask("GET", path)).json() == before


@pytest.mark.parametrize("kind", [*MachineKind, None])
async def test_a_put_makes_no_machine(plane: Plane, kind: MachineKind | None) -> None:
    """
    A PUT of a machine or a set that is not there is refused with what makes one; a PATCH finds nothing.
    """
    path = plane.scale_set_path("m") if kind is None else plane.machine_path("m", kind)
    refused = await plane.ask("PUT", path, {"location": "local"})
    assert refused.status_code == 400
    assert "enjoin join" in refused.json()["error"]["message"]
    assert (await plane.ask("PATCH", path, {})).status_code == 404
    assert (await plane.ask("DELETE", path)).status_code == 204


async def test_deletion_of_a_scale_set(plane: Plane) -> None:
    """
    A set is deleted with its machines, which are gone under both ids; other machines stay.
    """
    for number in range(3):
        await plane.machine(f"web/{number}", INSTANCE)
    await plane.machine("web_9")
    gone = await plane.ask("DELETE", plane.scale_set_path("WEB"))
    assert gone.status_code == 202
    headers = {"Authorization": f"Bearer {plane.token}"}
    assert (await plane.http.get(gone.headers["Azure-AsyncOperation"], headers=headers)).json()["status"] == "Succeeded"
    assert (await plane.ask("GET", plane.scale_set_path("web"))).status_code == 404
    assert (await plane.ask("GET", plane.machine_path("web/0", INSTANCE))).status_code == 404
    assert (await plane.ask("GET", plane.machine_path("web_2"))).status_code == 404
    assert (await plane.ask("GET", plane.machine_path("web_9"))).status_code == 200
    assert (await plane.ask("DELETE", plane.scale_set_path("web"))).status_code == 204


async def test_deletion_of_instances(plane: Plane) -> None:
    """
    `delete` removes the instances that it names, or all; the set stays; an unknown one stops it beforehand.
    """
    for number in range(4):
        await plane.machine(f"web/{number}", INSTANCE)
    path = plane.scale_set_path("web")

    async def left() -> list[str]:
        listed = (await plane.ask("GET", f"{path}/virtualMachines")).json()["value"]
        return [item["instanceId"] for item in listed]

    for wrong, status in (({"instanceIds": ["1", "7"]}, 404), ({"instanceIds": [1]}, 400), ({}, 400)):
        assert (await plane.ask("POST", f"{path}/delete", wrong)).status_code == status
    assert await left() == ["0", "1", "2", "3"]
    assert (await plane.ask("POST", f"{path}/delete", {"instanceIds": ["1", "3"]})).status_code == 202
    assert await left() == ["0", "2"]
    assert (await plane.ask("POST", f"{path}/delete", {"instanceIds": ["*"]})).status_code == 202
    assert await left() == []
    assert (await plane.ask("GET", path)).json()["sku"]["capacity"] == 0


async def test_a_page_of_machines_is_all_that_is_read(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A page of VMs goes on after the last name of the page before, instances among them, over all groups.
    """
    monkeypatch.setattr(machines, "PAGE", 2)
    for name in ("web/1", "a/0"):
        await plane.machine(name, INSTANCE)
    for name in ("b", "web"):
        await plane.machine(name)
    found = []
    path = f"/subscriptions/{plane.subscription_id}/providers/Microsoft.Compute/virtualMachines"
    page = (await plane.ask("GET", path, expand="instanceView")).json()
    found += page["value"]
    assert len(found) == 2
    rest = await plane.http.get(page["nextLink"], headers={"Authorization": f"Bearer {plane.token}"})
    found += rest.json()["value"]
    assert [item["name"] for item in found] == ["a_0", "b", "web", "web_1"]
    assert all("instanceView" in item["properties"] for item in found)
