"""`enjoin machines`, and what MACHINE means on every command line."""

import contextlib
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import click

from enjoin.cli.client import Client
from enjoin.cli.failure import NotFoundFailure, UsageFailure
from enjoin.cli.options import client, connection_option, output_option
from enjoin.cli.present import dig, print_json, print_table

VIRTUAL_MACHINES: Final = "Microsoft.Compute/virtualMachines"
SCALE_SETS: Final = "Microsoft.Compute/virtualMachineScaleSets"
ARC_MACHINES: Final = "Microsoft.HybridCompute/machines"
KINDS: Final = {
    VIRTUAL_MACHINES.lower(): "vm",
    ARC_MACHINES.lower(): "arc",
    f"{SCALE_SETS}/virtualMachines".lower(): "vmss",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine that exists: its resource id, as the control plane spells it, and its body."""

    id: str
    body: dict[str, Any]

    @property
    def path(self) -> str:
        """The id as a URL's path."""
        return quote(self.id)

    @property
    def name(self) -> str:
        """What the machine is called on a command line, its group left out: of a scale-set instance SET/ID."""
        return short_name(self.id)

    @property
    def status(self) -> str:
        """Whether its agent is there: Connected or Disconnected."""
        return str(dig(self.body, "properties", "enjoin", "status") or "")

    def command_path(self, name: str) -> str:
        """Return the URL path of a run command on it."""
        if not name or "/" in name:
            message = f"{name!r} is no name of a run command: it must not be empty or contain a slash"
            raise UsageFailure(message)
        return f"{self.path}/runCommands/{quote(name, safe='')}"


def short_name(machine_id: str) -> str:
    """Return the names in a machine's id, without its group's."""
    return "/".join(machine_id.split("/")[8::2])


def find_machine(here: Client, text: str) -> Target:
    """Return the machine that MACHINE names; raise UsageFailure when two have the name, NotFoundFailure when none."""
    own = here.connection
    group = f"/subscriptions/{quote(own.subscription_id)}/resourceGroups/{quote(own.resource_group)}/providers"
    if text.startswith("/"):
        return _whole_id(here, text)
    names = [quote(part, safe="") for part in text.split("/")]
    match names:
        case [name] if name:
            paths = [f"{group}/{VIRTUAL_MACHINES}/{name}", f"{group}/{ARC_MACHINES}/{name}"]
        case [scale_set, instance] if scale_set and instance:
            paths = [f"{group}/{SCALE_SETS}/{scale_set}/virtualMachines/{instance}"]
        case _:
            message = f"{text!r} is no machine: write NAME, SET/ID or a whole resource id"
            raise UsageFailure(message)
    found = [target for target in (_get(here, path) for path in paths) if target is not None]
    if not found:
        message = f"there is no machine {text!r} in the resource group {own.resource_group!r}; see `enjoin machines`"
        raise NotFoundFailure(message)
    if len(found) > 1:
        message = f"two machines are called {text!r}; give one's resource id: {' or '.join(t.id for t in found)}"
        raise UsageFailure(message, code="AmbiguousMachine")
    return found[0]


def _whole_id(here: Client, text: str) -> Target:
    parts = text.strip("/").split("/")
    keys = [part.lower() for part in parts[0:6:2]]
    kind = "/".join(parts[5:6] + parts[6::2]).lower()
    if keys[:3] != ["subscriptions", "resourcegroups", "providers"] or kind not in KINDS or len(parts) % 2:
        message = (
            f"{text!r} is not the resource id of a machine; one looks like "
            f"/subscriptions/ID/resourceGroups/GROUP/providers/{VIRTUAL_MACHINES}/NAME"
        )
        raise UsageFailure(message)
    target = _get(here, "/" + "/".join(quote(part, safe="") for part in parts))
    if target is None:
        message = f"there is no machine {text}; see `enjoin machines`"
        raise NotFoundFailure(message)
    return target


def _all_machines(here: Client) -> list[dict[str, Any]]:
    """Return every machine once, an instance of a scale set as such."""
    providers = f"/subscriptions/{quote(here.connection.subscription_id)}/providers"
    found = [body for kind in (VIRTUAL_MACHINES, ARC_MACHINES) for body in here.get_all(f"{providers}/{kind}")]
    found = [body for body in found if not dig(body, "properties", "virtualMachineScaleSet")]
    for scale_set in here.get_all(f"{providers}/{SCALE_SETS}"):
        with contextlib.suppress(NotFoundFailure):  # deleted meanwhile
            found += here.get_all(f"{quote(scale_set['id'])}/virtualMachines")
    return found


def _get(here: Client, path: str) -> Target | None:
    try:
        body = here.get(path)
    except NotFoundFailure:
        return None
    return Target(id=body["id"], body=body)


@click.command(short_help="List the machines.")
@output_option
@connection_option
def machines(output: str) -> None:
    """List the machines of the subscription, and how each holds its scripts.

    An instance of a scale set is called SET/ID; as VM it is also called SET_ID, and is listed once.

    CONTAINMENT is cgroup where ending a script surely ends all that it started, subreaper where a process may escape
    when the supervisor of its script is killed.
    """
    here = client()
    found = _all_machines(here)
    found.sort(key=lambda body: str(body["id"]).lower())
    if output == "json":
        print_json(found)
        return
    rows = [
        (
            short_name(body["id"]),
            KINDS.get(str(body["type"]).lower(), body["type"]),
            str(body["id"]).split("/")[4],
            dig(body, "properties", "enjoin", "status"),
            dig(body, "properties", "enjoin", "containment"),
            dig(body, "properties", "enjoin", "agentVersion"),
        )
        for body in found
    ]
    print_table(("NAME", "KIND", "GROUP", "STATUS", "CONTAINMENT", "AGENT"), rows)
