"""Routes of subscriptions, tenants, locations and resource providers."""

from starlette.responses import Response

from enjoin.api.call import JSON, Call
from enjoin.arm.envelope import render_list
from enjoin.arm.providers import PROVIDERS, find_provider, render_provider
from enjoin.arm.subscription import render_location, render_subscription, render_tenant
from enjoin.errors import NotAuthorised, NotFound


async def list_subscriptions(call: Call) -> Response:
    """GET the subscriptions that the caller may see: `az login` asks for them, and takes none for an answer."""
    try:
        await call.services.access.require(call.caller, "Microsoft.Resources/subscriptions/read", "/subscriptions")
    except NotAuthorised:
        return JSON(render_list([], None))
    found = await call.services.directory.subscriptions()
    values = [render_subscription(subscription, tenant_id=call.services.tenant_id) for subscription in found]
    return JSON(render_list(values, None))


async def get_subscription(call: Call) -> Response:
    """GET one subscription."""
    subscription = await call.services.directory.subscription(call.params["subscription"])
    return JSON(render_subscription(subscription, tenant_id=call.services.tenant_id))


async def list_tenants(call: Call) -> Response:
    """GET the one tenant."""
    return JSON(render_list([render_tenant(call.services.tenant_id)], None))


async def list_locations(call: Call) -> Response:
    """GET the locations that are in use."""
    subscription = await call.services.directory.subscription(call.params["subscription"])
    names = await call.services.directory.locations(subscription.id)
    return JSON(render_list([render_location(subscription.id, name) for name in names], None))


async def list_providers(call: Call) -> Response:
    """GET the resource providers."""
    subscription = await call.services.directory.subscription(call.params["subscription"])
    locations = await call.services.directory.locations(subscription.id)
    values = [render_provider(subscription.id, namespace, locations) for namespace in PROVIDERS]
    return JSON(render_list(values, None))


async def get_provider(call: Call) -> Response:
    """GET one resource provider; POST .../register answers the same, for all are registered."""
    subscription = await call.services.directory.subscription(call.params["subscription"])
    namespace = find_provider(call.params["namespace"])
    if namespace is None:
        text = f"The resource provider '{call.params['namespace'][:100]}' is not one of this server's."
        raise NotFound(text)
    locations = await call.services.directory.locations(subscription.id)
    return JSON(render_provider(subscription.id, namespace, locations))
