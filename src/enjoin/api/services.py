"""What a request handler may use: the use cases, and the few facts of the installation."""

import asyncio
from dataclasses import dataclass

from enjoin.clock import Clock
from enjoin.control.access import Access
from enjoin.control.assignments import Assignments
from enjoin.control.commands import Commands
from enjoin.control.directory import Directory
from enjoin.control.enrolment import Enrolment
from enjoin.control.groups import Groups
from enjoin.control.health import Health
from enjoin.control.history import History
from enjoin.control.identity import Identity
from enjoin.control.machines import Machines
from enjoin.control.operations import Operations
from enjoin.control.output import Output
from enjoin.control.reports import Reports
from enjoin.control.resources import Resources
from enjoin.control.scale_sets import ScaleSets
from enjoin.control.sessions import Sessions
from enjoin.store.base import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Made once by the composition root; found as `app.state.services`."""

    public_url: str  # without a trailing slash: every URL that a client is given begins with it
    tenant_id: str
    subscription_id: str  # of the default resource group
    clock: Clock
    store: Store
    stopping: asyncio.Event  # set when the server is asked to end: held requests answer at once
    access: Access
    identity: Identity
    directory: Directory
    groups: Groups
    resources: Resources
    commands: Commands
    machines: Machines
    scale_sets: ScaleSets
    operations: Operations
    output: Output
    history: History
    enrolment: Enrolment
    sessions: Sessions
    assignments: Assignments
    reports: Reports
    health: Health
