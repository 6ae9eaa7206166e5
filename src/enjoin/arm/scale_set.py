"""The bodies of scale sets: what `az vmss list` and `show` read."""

from collections.abc import Sequence

from enjoin.arm.envelope import Body, time_text
from enjoin.arm.ids import SCALE_SET_TYPE, scale_set_id_path
from enjoin.arm.properties import Properties
from enjoin.errors import InvalidField
from enjoin.model.address import ScaleSetAddress
from enjoin.model.machine import Instance
from enjoin.model.scale_set import ScaleSet, ScaleSetView


def address_of_set(scale_set: ScaleSet) -> ScaleSetAddress:
    """Return where a scale set is, spelled as it was made."""
    return ScaleSetAddress(
        subscription_id=scale_set.subscription_id, resource_group=scale_set.resource_group, name=scale_set.name
    )


def parse_instance_ids(body: object) -> Sequence[int] | None:
    """Return which instances a body names, None for all; raise InvalidField."""
    given = Properties(body, "").array("instanceIds")
    if not given:
        text = "'instanceIds' is missing: name the instances by their ids, or all of them by \"*\"."
        raise InvalidField(text, target="instanceIds")
    if "*" in given:
        return None
    numbers = []
    for item in given:
        instance = Instance.parse(f"set/{item}") if isinstance(item, str) else None
        if instance is None:
            text = f"'{str(item)[:40]}' is not the id of an instance; it has to be a text of decimal digits, or \"*\"."
            raise InvalidField(text, target="instanceIds")
        numbers.append(instance.number)
    return numbers


def render_scale_set(view: ScaleSetView) -> Body:
    """Return the resource. Its capacity is how many machines have joined."""
    scale_set = view.scale_set
    return {
        "id": scale_set_id_path(address_of_set(scale_set)),
        "name": scale_set.name,
        "type": SCALE_SET_TYPE,
        "location": scale_set.location,
        "tags": scale_set.tags,
        "sku": {"name": "Custom", "tier": "Standard", "capacity": view.instances},
        "properties": {
            "provisioningState": "Succeeded",
            "uniqueId": str(scale_set.id),
            "orchestrationMode": "Flexible",
            "singlePlacementGroup": False,
            "platformFaultDomainCount": 1,
            "timeCreated": time_text(scale_set.created_at),
        },
    }


def render_scale_set_instance_view(view: ScaleSetView) -> Body:
    """Return how many instances are in which state, and that of the set."""
    counts = {"PowerState/running": view.connected, "PowerState/unknown": view.instances - view.connected}
    return {
        "virtualMachine": {
            "statusesSummary": [
                {"code": "ProvisioningState/succeeded", "count": view.instances},
                *({"code": code, "count": count} for code, count in counts.items() if count),
            ]
        },
        "statuses": [
            {
                "code": "ProvisioningState/succeeded",
                "level": "Info",
                "displayStatus": "Provisioning succeeded",
                "time": time_text(view.scale_set.created_at),
            }
        ],
        "extensions": [],
    }
