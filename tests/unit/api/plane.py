"""A control plane without sockets: the real application on the real SQLite store, asked through ASGI."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from enjoin.api.app import create_app
from enjoin.api.services import Services
from enjoin.control.access import Access
from enjoin.control.assignments import Assignments
from enjoin.control.bootstrap import administrator_secret, bootstrap
from enjoin.control.commands import DELIVERY_DEADLINE, Commands
from enjoin.control.directory import Directory
from enjoin.control.enrolment import Enrolment
from enjoin.control.groups import Groups
from enjoin.control.health import Health
from enjoin.control.history import History
from enjoin.control.identity import Identity
from enjoin.control.machines import Machines
from enjoin.control.metrics import MeteredStore
from enjoin.control.operations import Operations
from enjoin.control.output import Output
from enjoin.control.reports import Reports
from enjoin.control.resources import Resources
from enjoin.control.scale_sets import ScaleSets
from enjoin.control.sessions import Session, Sessions
from enjoin.control.tokens import Tokens
from enjoin.model.execution import Event
from enjoin.model.identity import new_uuid7
from enjoin.model.machine import Instance, Machine, MachineKind
from enjoin.model.retention import Retention
from enjoin.model.scale_set import ScaleSet
from enjoin.protocol.messages import PROTOCOL_VERSION, Hello, OutputChunk, StatusReport
from enjoin.store.base import Transaction
from enjoin.store.sqlite import SQLiteStore

URL: Final = "https://enjoin.example:8443"
VERSION: Final = "2024-11-01"
NOON: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)


class HandClock:
    """Time that a test sets. A sleep ends when the time has come."""

    def __init__(self) -> None:
        self.at = NOON
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        """Return what the test set."""
        return self.at

    def monotonic_s(self) -> float:
        """Return the seconds since 1970 of it."""
        return self.at.timestamp()

    async def sleep(self, delay_s: float) -> None:
        """Return when the time has come."""
        until = self.at + timedelta(seconds=delay_s)
        while self.at < until:
            await self._moved.wait()

    def advance(self, by: timedelta) -> None:
        """Move time on."""
        self.at += by
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


@cache
def token_key() -> rsa.RSAPrivateKey:
    """Return the key of all planes: making one takes a while."""
    return rsa.generate_private_key(65537, 2048)


class Plane:
    """The application, its services, and short words for asking it."""

    def __init__(self, services: Services, secret: str, client_id: str, subscription_id: str) -> None:
        self.services = services
        self.app = create_app(services)
        self.secret, self.client_id, self.subscription_id = secret, client_id, subscription_id
        self.group_path = f"/subscriptions/{subscription_id}/resourceGroups/enjoin"
        self.token = ""
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url=URL)

    @classmethod
    async def started(cls, directory: Path, clock: HandClock) -> "Plane":
        """Return one with an administrator signed in."""
        store = MeteredStore(SQLiteStore(directory / "enjoin.db", clock=clock))
        await store.open()
        installation = await bootstrap(store, clock)
        secret = await administrator_secret(store, installation.administrator, kept=None)
        tokens = Tokens(token_key(), tenant_id=installation.tenant_id, public_url=URL)
        stopping, sessions = asyncio.Event(), Sessions(store, clock)
        assignments, output = Assignments(store, clock), Output(store, directory / "output")
        machines = Machines(store, sessions)
        services = Services(
            public_url=URL,
            tenant_id=installation.tenant_id,
            subscription_id=installation.subscription_id,
            clock=clock,
            store=store,
            stopping=stopping,
            access=Access(store, clock, tokens),
            identity=Identity(store, clock, tokens),
            directory=Directory(store, clock),
            groups=Groups(store, clock, sessions, delivery_deadline=DELIVERY_DEADLINE),
            resources=Resources(store),
            commands=Commands(store, clock, sessions, assignments, output),
            machines=machines,
            scale_sets=ScaleSets(store, machines),
            operations=Operations(store, clock, stopping),
            output=output,
            history=History(store, clock, output, Retention()),
            enrolment=Enrolment(store, clock, sessions, server_name="enjoin:test"),
            sessions=sessions,
            assignments=assignments,
            reports=Reports(store, clock, output),
            health=Health(store, clock, sessions, stopping),
        )
        plane = cls(services, secret, installation.administrator.client_id, installation.subscription_id)
        plane.token = await plane.sign_in(plane.client_id, secret)
        return plane

    async def stop(self) -> None:
        """Close what `started` opened."""
        await self.http.aclose()
        await self.services.store.close()

    async def sign_in(self, client_id: str, secret: str) -> str:
        """Return an access token."""
        answer = await self.post_token(client_id=client_id, client_secret=secret)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def post_token(self, path: str = "/adfs/oauth2/token", **fields: str) -> httpx.Response:
        """Ask for a token."""
        form = {"grant_type": "client_credentials", "scope": f"{URL}/.default", **fields}
        return await self.http.post(path, data=form)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        **more: str,
    ) -> httpx.Response:
        """Send an authorised request with an api-version."""
        expanded = {name.replace("expand", "$expand"): text for name, text in {**(query or {}), **more}.items()}
        return await self.http.request(
            method,
            path,
            json=body if content is None and body is not None else None,
            content=content,
            params={"api-version": VERSION, **expanded},
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
        )

    async def machine(self, name: str = "vm1", kind: MachineKind = MachineKind.VIRTUAL_MACHINE) -> Machine:
        """Make a machine that was never connected. An instance is named SET/ID or SET, then its ID is 0."""
        instance = Instance.parse(_instance_name(name)) if kind is MachineKind.SCALE_SET_INSTANCE else None
        machine = Machine(
            id=new_uuid7(),
            subscription_id=self.subscription_id,
            resource_group="enjoin",
            kind=kind,
            name=name if instance is None else instance.name,
            instance=instance,
            location="local",
            identity_key=bytes(32),
            sealing_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
            sealing_key_id="key-1",
            epoch="epoch-1",
            created_at=NOON,
            status_changed_at=NOON,
        )

        async def work(tx: Transaction) -> None:
            if instance is not None:
                scale_set = ScaleSet(
                    id=new_uuid7(),
                    subscription_id=self.subscription_id,
                    resource_group="enjoin",
                    name=instance.scale_set,
                    location="local",
                    created_at=NOON,
                )
                await tx.make_scale_set(scale_set)
            await tx.add_machine(machine)

        await self.services.store.write(work)
        return machine

    async def connect(self, machine: Machine) -> Session:
        """Open the machine's session, as its agent's Hello does."""
        hello = Hello(
            machine_id=machine.id,
            protocol_version=PROTOCOL_VERSION,
            agent_version="0.1.0",
            epoch=machine.epoch,
            journal_sequence=0,
            held=[],
            signature=b"",
            os_name="Debian",
            host_name="vm1.example",
            containment="cgroup",
        )
        return await self.services.sessions.open(hello)

    def path(self, command: str = "", machine: str = "vm1", kind: MachineKind = MachineKind.VIRTUAL_MACHINE) -> str:
        """Return the path of a machine's run commands, or of one of them."""
        path = f"{self.machine_path(machine, kind)}/runCommands"
        return f"{path}/{command}" if command else path

    def machine_path(self, machine: str = "vm1", kind: MachineKind = MachineKind.VIRTUAL_MACHINE) -> str:
        """Return the path of a machine."""
        if kind is MachineKind.SCALE_SET_INSTANCE:
            scale_set, _, number = _instance_name(machine).partition("/")
            return f"{self.scale_set_path(scale_set)}/virtualMachines/{number}"
        provider = {
            MachineKind.VIRTUAL_MACHINE: "Microsoft.Compute/virtualMachines",
            MachineKind.ARC: "Microsoft.HybridCompute/machines",
        }
        return f"{self.group_path}/providers/{provider[kind]}/{machine}"

    def scale_set_path(self, name: str = "") -> str:
        """Return the path of a scale set, or of all."""
        path = f"{self.group_path}/providers/Microsoft.Compute/virtualMachineScaleSets"
        return f"{path}/{name}" if name else path

    async def put(self, command: str = "c1", body: object = None, **headers: str) -> httpx.Response:
        """PUT a run command on vm1."""
        sent = command_body() if body is None else body
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("PUT", self.path(command), sent, headers=names)

    async def execution_id(self, command: str = "c1") -> UUID:
        """Return the id of the current execution."""
        answer = await self.ask("GET", self.path(command), expand="instanceView")
        return UUID(answer.json()["properties"]["instanceView"]["enjoin"]["executionId"])

    async def report(self, session: Session, execution_id: UUID, *events: Event, **facts: Any) -> None:  # noqa: ANN401 - fields of a report
        """Report events of one execution; the last one has `facts`."""
        for sequence, event in enumerate(events):
            more = facts if sequence == len(events) - 1 else {}
            await self.services.reports.apply(
                session,
                [
                    StatusReport(
                        execution_id=execution_id, sequence=sequence, journal_sequence=sequence, event=event, **more
                    )
                ],
            )

    async def output(self, session: Session, execution_id: UUID, data: bytes, *, offset: int = 0) -> None:
        """Deliver bytes of stdout."""
        chunk = OutputChunk(execution_id=execution_id, stream="stdout", offset=offset, data=data)
        await self.services.reports.apply(session, [chunk])


def _instance_name(name: str) -> str:
    return name if "/" in name else f"{name}/0"


def command_body(script: str = "echo hello", **properties: object) -> dict[str, object]:
    """Return the body of a PUT."""
    return {"location": "local", "properties": {"source": {"script": script}, **properties}}


def new_id() -> str:
    """Return something that no request had before."""
    return str(uuid4())
