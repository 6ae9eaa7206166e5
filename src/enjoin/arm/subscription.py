"""The bodies of subscriptions, tenants and locations."""

from enjoin.arm.envelope import Body
from enjoin.model.directory import Subscription


def render_subscription(subscription: Subscription, *, tenant_id: str) -> Body:
    """Return the resource."""
    return {
        "id": f"/subscriptions/{subscription.id}",
        "subscriptionId": subscription.id,
        "tenantId": tenant_id,
        "displayName": subscription.display_name,
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "PayAsYouGo_2014-09-01",
            "spendingLimit": "Off",
        },
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
    }


def render_tenant(tenant_id: str) -> Body:
    """Return the one tenant of an installation."""
    return {
        "id": f"/tenants/{tenant_id}",
        "tenantId": tenant_id,
        "displayName": "Enjoin",
        "tenantCategory": "Home",
        "domains": [],
    }


def render_location(subscription_id: str, name: str) -> Body:
    """Return a location. Enjoin's are names that operators chose; nothing is known of where they are."""
    return {
        "id": f"/subscriptions/{subscription_id}/locations/{name}",
        "name": name,
        "type": "Region",
        "displayName": name,
        "regionalDisplayName": name,
        "metadata": {
            "regionType": "Physical",
            "regionCategory": "Other",
            "geography": name,
            "geographyGroup": name,
            "longitude": "0",
            "latitude": "0",
            "physicalLocation": name,
            "pairedRegion": [],
        },
    }
