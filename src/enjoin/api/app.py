"""The application: every route on one line, with the permission that it needs."""

from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, WebSocketRoute

from enjoin.api import (
    administration,
    agents,
    groups,
    health,
    later,
    machines,
    openapi,
    operations,
    resource_lists,
    run_commands,
    scale_sets,
    sign_in,
    subscriptions,
)
from enjoin.api.middleware import Front
from enjoin.api.routing import SIGNED_IN, Entry, each_kind, guarded, nothing_there, public, resources
from enjoin.api.services import Services
from enjoin.api.spelling import Spellings

S: Final = "/subscriptions/{subscription}"
G: Final = S + "/resourceGroups/{group}"
TYPE: Final = "{machine_type}"  # and what follows it: see each_kind
MACHINES: Final = G + "/providers/" + TYPE
MACHINE: Final = MACHINES + "/{machine}"
SCALE_SETS: Final = "providers/Microsoft.Compute/virtualMachineScaleSets"
SCALE_SET: Final = f"{G}/{SCALE_SETS}/{{scale_set}}"
COMMANDS: Final = MACHINE + "/runCommands"
COMMAND: Final = COMMANDS + "/{command}"
EXECUTIONS: Final = COMMAND + "/executions"
EXECUTION: Final = EXECUTIONS + "/{generation}"
LOCATION: Final = S + "/providers/{namespace}/locations/{location}"
OPERATION: Final = LOCATION + "/operations/{operation}"
RESULT: Final = LOCATION + "/operationresults/{operation}"
PROVIDER: Final = S + "/providers/{namespace}"
PRINCIPALS: Final = "/enjoin/v1/principals"
TOKENS: Final = "/enjoin/v1/enrolmentTokens"
# Tokens are asked for below any prefix: clients build these paths themselves.
ANY: Final = "/{authority:.+}"

RUN: Final = "{machine_type}/runCommands"
POLL: Final = "{namespace}/locations/operations/read"
LOCKS: Final = "providers/Microsoft.Authorization/locks"
READ_LOCKS: Final = "Microsoft.Authorization/locks/read"
GROUPS: Final = "Microsoft.Resources/subscriptions/resourceGroups"

SETS: Final = "Microsoft.Compute/virtualMachineScaleSets"
LINES: Final[tuple[Entry, ...]] = (  # what is asked most comes first
    guarded("PUT", COMMAND, run_commands.put_run_command, f"{RUN}/write"),
    guarded("GET", COMMAND, run_commands.get_run_command, f"{RUN}/read"),
    guarded("PATCH", COMMAND, run_commands.patch_run_command, f"{RUN}/write"),
    guarded("DELETE", COMMAND, run_commands.delete_run_command, f"{RUN}/delete"),
    guarded("GET", OPERATION, operations.get_operation, POLL),
    guarded("GET", RESULT, operations.get_operation_result, POLL),
    guarded("GET", COMMANDS, run_commands.list_run_commands, f"{RUN}/read"),
    guarded("POST", f"{COMMAND}/cancel", run_commands.cancel_run_command, f"{RUN}/write"),
    guarded("GET", EXECUTIONS, run_commands.list_executions, f"{RUN}/read"),
    guarded("GET", EXECUTION, run_commands.get_execution, f"{RUN}/read"),
    guarded("GET", f"{EXECUTION}/output", run_commands.get_output, f"{RUN}/read"),
    guarded("GET", MACHINE, machines.get_machine, "{machine_type}/read"),
    guarded("PUT", MACHINE, machines.change_machine, "{machine_type}/write"),
    guarded("PATCH", MACHINE, machines.change_machine, "{machine_type}/write"),
    guarded("DELETE", MACHINE, machines.delete_machine, "{machine_type}/delete"),
    guarded("GET", f"{MACHINE}/instanceView", machines.get_vm_instance_view, "{machine_type}/instanceView/read"),
    guarded("GET", MACHINES, machines.list_machines, "{machine_type}/read"),
    guarded("GET", f"{S}/providers/{TYPE}", machines.list_machines, "{machine_type}/read"),
    guarded("GET", f"{S}/{SCALE_SETS}", scale_sets.list_scale_sets, f"{SETS}/read"),
    guarded("GET", f"{G}/{SCALE_SETS}", scale_sets.list_scale_sets, f"{SETS}/read"),
    guarded("GET", SCALE_SET, scale_sets.get_scale_set, f"{SETS}/read"),
    guarded("PUT", SCALE_SET, scale_sets.change_scale_set, f"{SETS}/write"),
    guarded("PATCH", SCALE_SET, scale_sets.change_scale_set, f"{SETS}/write"),
    guarded("DELETE", SCALE_SET, scale_sets.delete_scale_set, f"{SETS}/delete"),
    guarded("POST", f"{SCALE_SET}/delete", scale_sets.delete_instances, f"{SETS}/delete/action"),
    guarded("GET", f"{SCALE_SET}/instanceView", scale_sets.get_instance_view, f"{SETS}/instanceView/read"),
    guarded("GET", f"{SCALE_SET}/virtualMachines", scale_sets.list_instances, f"{SETS}/virtualMachines/read"),
    guarded("GET", f"{S}/resourceGroups", groups.list_groups, f"{GROUPS}/read"),
    guarded("GET", G, groups.get_group, f"{GROUPS}/read"),
    guarded("HEAD", G, groups.head_group, f"{GROUPS}/read"),
    guarded("PUT", G, groups.put_group, f"{GROUPS}/write"),
    guarded("PATCH", G, groups.patch_group, f"{GROUPS}/write"),
    guarded("DELETE", G, groups.delete_group, f"{GROUPS}/delete"),
    guarded("GET", f"{S}/resources", resource_lists.list_resources, "Microsoft.Resources/subscriptions/resources/read"),
    guarded("GET", f"{G}/resources", resource_lists.list_resources, f"{GROUPS}/resources/read"),
    guarded("GET", f"{S}/{LOCKS}", resource_lists.list_locks, READ_LOCKS),
    guarded("GET", f"{G}/{LOCKS}", resource_lists.list_locks, READ_LOCKS),
    guarded("GET", f"{MACHINE}/{LOCKS}", resource_lists.list_locks, READ_LOCKS),
    guarded("GET", f"{SCALE_SET}/{LOCKS}", resource_lists.list_locks, READ_LOCKS),
    guarded("GET", f"{COMMAND}/{LOCKS}", resource_lists.list_locks, READ_LOCKS),
    guarded("POST", f"{MACHINE}/runCommand", later.refuse_action, "{machine_type}/runCommand/action"),
    guarded("GET", f"{LOCATION}/runCommands", later.refuse_catalogue, "{namespace}/locations/runCommands/read"),
    guarded(
        "GET", f"{LOCATION}/runCommands/{{document}}", later.refuse_catalogue, "{namespace}/locations/runCommands/read"
    ),
    guarded("GET", "/subscriptions", subscriptions.list_subscriptions, SIGNED_IN),
    guarded("GET", S, subscriptions.get_subscription, "Microsoft.Resources/subscriptions/read"),
    guarded("GET", "/tenants", subscriptions.list_tenants, SIGNED_IN),
    guarded("GET", f"{S}/locations", subscriptions.list_locations, "Microsoft.Resources/subscriptions/locations/read"),
    guarded("GET", f"{S}/providers", subscriptions.list_providers, "Microsoft.Resources/subscriptions/providers/read"),
    guarded("GET", PROVIDER, subscriptions.get_provider, "Microsoft.Resources/subscriptions/providers/read"),
    guarded("POST", f"{PROVIDER}/register", subscriptions.get_provider, "{namespace}/register/action"),
    guarded("GET", PRINCIPALS, administration.list_principals, "Enjoin/principals/read"),
    guarded("POST", PRINCIPALS, administration.create_principal, "Enjoin/principals/write"),
    guarded("DELETE", f"{PRINCIPALS}/{{principal}}", administration.delete_principal, "Enjoin/principals/delete"),
    guarded("POST", TOKENS, administration.create_enrolment_token, "Enjoin/enrolmentTokens/write"),
    public("POST", "/enjoin/v1/enrol", agents.enrol),
    public("GET", "/enjoin/v1/openapi.json", openapi.get_description),
    public("GET", "/healthz", health.get_health),
    public("GET", "/readyz", health.get_readiness),
    public("GET", "/metrics", health.get_metrics),
    public("GET", "/metadata/endpoints", sign_in.get_metadata),
    public("GET", f"{ANY}/.well-known/openid-configuration", sign_in.get_openid_configuration),
    public("GET", f"{ANY}/discovery/keys", sign_in.get_public_keys),
    public("GET", f"{ANY}/discovery/v2.0/keys", sign_in.get_public_keys),
    public("POST", f"{ANY}/oauth2/token", sign_in.post_token),
    public("POST", f"{ANY}/oauth2/v2.0/token", sign_in.post_token),
)
TABLE: Final[tuple[Entry, ...]] = tuple(each_kind(LINES))
CHANNEL: Final = "/enjoin/v1/channel"  # of agents


def create_app(services: Services) -> Starlette:
    """Return the ASGI application of a control plane."""
    routes: list[BaseRoute] = [*resources(TABLE), WebSocketRoute(CHANNEL, agents.channel)]
    app = Starlette(routes=routes, middleware=[Middleware(Front, services=services)])
    app.router.redirect_slashes = False
    app.router.default = nothing_there
    app.state.services = services
    app.state.openapi = openapi.encode(TABLE)
    app.state.spellings = Spellings(services.machines)
    return app
