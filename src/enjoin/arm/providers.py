"""Resource providers: which types there are and which api-versions a client may pick for them."""

from collections.abc import Mapping, Sequence
from typing import Final

from enjoin.arm.envelope import Body

# `az resource show` takes the first version that is no preview, so the newest comes first.
_COMPUTE: Final = ("2026-04-01", "2025-04-01", "2024-11-01", "2024-07-01", "2023-09-01", "2023-03-01", "2019-12-01")
_HYBRID: Final = ("2026-07-15", "2026-06-16-preview", "2025-01-13", "2024-11-10-preview", "2024-07-10")
_RESOURCES: Final = ("2025-04-01", "2024-11-01", "2022-12-01", "2021-04-01", "2020-06-01")

PROVIDERS: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "Microsoft.Compute": {
        "virtualMachines": _COMPUTE,
        "virtualMachines/runCommands": _COMPUTE,
        "virtualMachineScaleSets": _COMPUTE,
        "virtualMachineScaleSets/virtualMachines": _COMPUTE,
        "virtualMachineScaleSets/virtualMachines/runCommands": _COMPUTE,
        "locations": _COMPUTE,
        "locations/operations": _COMPUTE,
    },
    "Microsoft.HybridCompute": {
        "machines": _HYBRID,
        "machines/runCommands": _HYBRID,
        "locations": _HYBRID,
        "locations/operations": _HYBRID,
    },
    "Microsoft.Authorization": {"locks": ("2020-05-01", "2016-09-01")},
    "Microsoft.Resources": {
        "resources": _RESOURCES,
        "subscriptions": _RESOURCES,
        "tenants": _RESOURCES,
        "resourceGroups": _RESOURCES,
        "subscriptions/resourceGroups": _RESOURCES,
        "subscriptions/locations": _RESOURCES,
        "subscriptions/providers": _RESOURCES,
    },
}
_TRACKED: Final = frozenset(
    {
        "virtualMachines",
        "virtualMachines/runCommands",
        "virtualMachineScaleSets",
        "virtualMachineScaleSets/virtualMachines",
        "virtualMachineScaleSets/virtualMachines/runCommands",
        "machines",
        "machines/runCommands",
    }
)


def find_provider(namespace: str) -> str | None:
    """Return a namespace in its own spelling, or None when there is no such provider."""
    return next((name for name in PROVIDERS if name.lower() == namespace.lower()), None)


def render_provider(subscription_id: str, namespace: str, locations: Sequence[str]) -> Body:
    """Return a provider, which is always registered: here nothing has to be switched on first."""
    return {
        "id": f"/subscriptions/{subscription_id}/providers/{namespace}",
        "namespace": namespace,
        "registrationPolicy": "RegistrationFree",
        "registrationState": "Registered",
        "resourceTypes": [
            {
                "resourceType": name,
                "locations": list(locations),
                "apiVersions": list(versions),
                "capabilities": "SupportsTags" if name in _TRACKED else "None",
            }
            for name, versions in PROVIDERS[namespace].items()
        ],
    }
