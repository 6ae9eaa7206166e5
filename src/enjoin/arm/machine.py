"""The bodies of machines: what `az vm list`, `show -d` and `get-instance-view` read, and the Arc resource."""

from typing import Final

from enjoin.arm.envelope import ENJOIN, Body, time_text
from enjoin.arm.ids import MACHINE_TYPES, machine_id_path, scale_set_id_path
from enjoin.model.address import MachineAddress, ScaleSetAddress
from enjoin.model.machine import Machine, MachineKind

VM_SIZE: Final = "Custom"  # of every machine: the control plane neither makes nor resizes one


def address_of(machine: Machine) -> MachineAddress:
    """Return where a machine is, spelled as it was made."""
    return MachineAddress(
        subscription_id=machine.subscription_id,
        resource_group=machine.resource_group,
        kind=machine.kind,
        name=machine.name,
    )


def render_machine(machine: Machine, *, tenant_id: str, expand_instance_view: bool) -> Body:
    """Return the resource, of the kind under which it was looked up."""
    if machine.kind is MachineKind.ARC:
        return _arc(machine, tenant_id)
    return _vm(machine, expand_instance_view=expand_instance_view)


def _resource(machine: Machine) -> Body:
    return {
        "id": machine_id_path(address_of(machine)),
        "name": machine.name if machine.instance is None else machine.instance.vm_name,
        "type": MACHINE_TYPES[machine.kind],
        "location": machine.location,
        "tags": machine.tags,
    }


def _ours(machine: Machine) -> Body:
    """Return what is asked of machines of every kind, in one place for all."""
    facts = machine.facts
    return {
        "status": _status(machine),
        "agentVersion": facts.agent_version,
        "containment": facts.containment,
        "architecture": facts.architecture,
        "lastStatusChange": time_text(machine.status_changed_at),
    }


def _status(machine: Machine) -> str:
    return "Connected" if machine.connected else "Disconnected"


def _vm(machine: Machine, *, expand_instance_view: bool) -> Body:
    facts = machine.facts
    properties: Body = {
        "vmId": str(machine.id),
        "provisioningState": "Succeeded",
        "timeCreated": time_text(machine.created_at),
        "hardwareProfile": {"vmSize": VM_SIZE},
        "storageProfile": {"osDisk": {"osType": facts.os_type, "createOption": "Attach"}, "dataDisks": []},
        "osProfile": {"computerName": facts.host_name or machine.name},
        "networkProfile": {"networkInterfaces": []},  # empty: az asks no network service then
        ENJOIN: _ours(machine),
    }
    if expand_instance_view:
        properties["instanceView"] = render_vm_instance_view(machine)
    body: Body = {**_resource(machine), "properties": properties}
    if machine.instance is None:
        return body
    if machine.kind is MachineKind.SCALE_SET_INSTANCE:
        return {**body, "instanceId": str(machine.instance.number)}
    scale_set = ScaleSetAddress(
        subscription_id=machine.subscription_id,
        resource_group=machine.resource_group,
        name=machine.instance.scale_set,
    )
    properties["virtualMachineScaleSet"] = {"id": scale_set_id_path(scale_set)}
    return body


def render_vm_instance_view(machine: Machine) -> Body:
    """Return what `az vm get-instance-view` prints. A machine that is away counts as not ready, not as stopped."""
    facts = machine.facts
    changed = time_text(machine.status_changed_at)
    if machine.connected:
        power = {"code": "PowerState/running", "level": "Info", "displayStatus": "VM running"}
        agent = {"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Ready"}
        agent["message"] = "The agent is connected."
    else:
        power = {"code": "PowerState/unknown", "level": "Warning", "displayStatus": "VM state unknown"}
        agent = {"code": "ProvisioningState/Unavailable", "level": "Warning", "displayStatus": "Not Ready"}
        agent["message"] = "The agent is not connected; commands wait for it."
    provisioned = {
        "code": "ProvisioningState/succeeded",
        "level": "Info",
        "displayStatus": "Provisioning succeeded",
        "time": time_text(machine.created_at),
    }
    return {
        "computerName": facts.host_name or machine.name,
        "osName": facts.os_name,
        "osVersion": facts.os_version,
        "vmAgent": {
            "vmAgentVersion": facts.agent_version or "Unknown",
            "extensionHandlers": [],
            "statuses": [{**agent, "time": changed}],
        },
        "disks": [],
        "extensions": [],
        "statuses": [provisioned, {**power, "time": changed}],
    }


def _arc(machine: Machine, tenant_id: str) -> Body:
    facts = machine.facts
    return {
        **_resource(machine),
        "identity": {"type": "SystemAssigned", "principalId": str(machine.id), "tenantId": tenant_id},
        "kind": "",
        "properties": {
            "provisioningState": "Succeeded",
            "status": _status(machine),
            "lastStatusChange": time_text(machine.status_changed_at),
            "agentVersion": facts.agent_version,
            "vmId": str(machine.id),
            "displayName": machine.name,
            "machineFqdn": facts.host_name,
            "osProfile": {"computerName": facts.host_name or machine.name},
            "osType": facts.os_type.lower(),
            "osName": facts.os_name,
            "osSku": facts.os_name,
            "osVersion": facts.os_version,
            "cloudMetadata": {"provider": "N/A"},
            "detectedProperties": {"architecture": facts.architecture},
            "extensions": [],
            ENJOIN: _ours(machine),
        },
    }
