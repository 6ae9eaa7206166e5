"""The contract of every database behind Enjoin. One suite (`tests/contract`) runs on each of them.

A use case is `async def work(tx)` handed to `store.write(work)`: all of it happens or nothing, and its result, its
wake-ups and any acknowledgement leave only after the commit. `work` touches nothing but `tx` and may be run again from
its start after a conflict. Row locks are taken by the `…_for_update` verbs, in the order group, machine, command,
execution, operation, and within one kind by ascending id. Names of groups, machines and commands are compared in lower
case.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, TypeVar
from uuid import UUID

from enjoin.model.command import CommandSpec, RunCommand
from enjoin.model.directory import EnrolmentToken, Principal, ResourceGroup, Subscription
from enjoin.model.execution import Execution
from enjoin.model.machine import Machine, MachineKind
from enjoin.model.operation import Operation
from enjoin.store.history import HistoryTransaction
from enjoin.store.scale_sets import ScaleSetTransaction

T = TypeVar("T")


class StatementFailed(Exception):
    """The database refused a statement for what it says: a defect of Enjoin. Its transaction is rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRequest:
    """A write that was accepted, kept for a while so that its repetition starts nothing."""

    principal_id: UUID
    resource_key: str  # verb and lower-cased resource path
    client_request_id: str
    body_sha256: bytes
    operation_id: UUID | None
    accepted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOrder:
    """A cancel that the machine has not confirmed yet; it is repeated at every connect until it is."""

    machine_id: UUID
    execution_id: UUID
    reason: str  # "canceled" or "deleted"
    forget: bool  # the machine also removes what it keeps of the execution
    ordered_at: datetime


class Transaction(HistoryTransaction, ScaleSetTransaction, Protocol):
    """One transaction. Every verb is a bounded number of indexed statements."""

    def wake(self, topic: str) -> None:
        """Wake the subscribers of `topic` after the commit."""
        ...

    # settings of the installation
    async def get_setting(self, name: str) -> str | None:
        """Return a setting, or None."""
        ...

    async def put_setting(self, name: str, value: str) -> None:
        """Insert or replace a setting."""
        ...

    # subscriptions, resource groups
    async def put_subscription(self, subscription: Subscription) -> None:
        """Insert or replace."""
        ...

    async def list_subscriptions(self) -> Sequence[Subscription]:
        """Return all, oldest first."""
        ...

    async def get_group(self, subscription_id: str, name: str) -> ResourceGroup | None:
        """Return one group, or None."""
        ...

    async def list_groups(self, subscription_id: str) -> Sequence[ResourceGroup]:
        """Return all, by name."""
        ...

    async def put_group(self, group: ResourceGroup) -> bool:
        """Insert or replace; return whether it is new. A replacement keeps the first spelling and creation time."""
        ...

    async def delete_group(self, subscription_id: str, name: str) -> bool:
        """Remove it and its scale sets; return whether it was there. The caller made sure that no machine is in it."""
        ...

    async def get_group_for_update(self, subscription_id: str, name: str) -> ResourceGroup | None:
        """Return one group and lock its row."""
        ...

    # principals
    async def add_principal(self, principal: Principal) -> None:
        """Insert; raise Conflict when the name or the client id is taken."""
        ...

    async def get_principal(self, principal_id: UUID) -> Principal | None:
        """Return one by its object id, or None."""
        ...

    async def find_principal(self, client_id: str) -> Principal | None:
        """Return one by its client id, or None."""
        ...

    async def list_principals(self) -> Sequence[Principal]:
        """Return all, by name."""
        ...

    async def delete_principal(self, principal_id: UUID) -> bool:
        """Remove it and its secrets; return whether it was there."""
        ...

    async def set_secret(self, principal_id: UUID, secret_sha256: bytes) -> None:
        """Make this the principal's only secret, revoking any other."""
        ...

    async def secret_hashes(self, principal_id: UUID) -> Sequence[bytes]:
        """Return the SHA-256 of each valid secret."""
        ...

    # enrolment tokens
    async def add_token(self, token: EnrolmentToken) -> None:
        """Insert."""
        ...

    async def delete_tokens(self, subscription_id: str, resource_group: str) -> None:
        """Remove those for a group, spelled as the group is."""
        ...

    async def use_token(self, token_sha256: bytes, *, now: datetime) -> EnrolmentToken | None:
        """Take one use; None when unknown, expired at `now`, or used up. Two callers never take the same use."""
        ...

    # machines
    async def add_machine(self, machine: Machine) -> None:
        """Insert; raise Conflict when group, kind and name are taken. An instance is findable as a VM too."""
        ...

    async def get_machine(self, machine_id: UUID) -> Machine | None:
        """Return one by identity, or None."""
        ...

    async def get_machine_for_update(self, machine_id: UUID) -> Machine | None:
        """Return one and lock its row."""
        ...

    async def find_machine(
        self, subscription_id: str, resource_group: str, kind: MachineKind, name: str
    ) -> Machine | None:
        """Return one by address, or None."""
        ...

    async def list_machines(
        self,
        subscription_id: str,
        *,
        resource_group: str | None = None,
        kind: MachineKind | None = None,
        after: tuple[str, str, str] = ("", "", ""),
        limit: int | None = None,
    ) -> Sequence[Machine]:
        """Return at most `limit` of those that match, by lower-cased group and name, then kind.

        `after` is group, name and kind of the last one on the page before. Without `kind` each machine is there once,
        under the address that it enrolled under; a scale-set instance is also one of the VMs.
        """
        ...

    async def put_machine(self, machine: Machine) -> None:
        """Replace everything of an existing machine but its id and address."""
        ...

    async def delete_machine(self, machine_id: UUID) -> bool:
        """Remove it and all that belongs to it but operations; return whether it was there."""
        ...

    async def connected_machines(self) -> Sequence[Machine]:
        """Return those marked as connected: at a start, the ones whose lease must be set."""
        ...

    async def expired_leases(self, *, now: datetime, limit: int) -> Sequence[UUID]:
        """Return at most `limit` machines whose lease_expires_at is not after `now`, earliest first."""
        ...

    # run commands
    async def get_command(self, incarnation_id: UUID) -> RunCommand | None:
        """Return one by incarnation, or None."""
        ...

    async def get_command_for_update(self, incarnation_id: UUID) -> RunCommand | None:
        """Return one by incarnation and lock its row."""
        ...

    async def find_command(self, machine_id: UUID, name: str) -> RunCommand | None:
        """Return one by name, or None."""
        ...

    async def find_command_for_update(self, machine_id: UUID, name: str) -> RunCommand | None:
        """Return one by name and lock its row."""
        ...

    async def list_commands(self, machine_id: UUID, *, after_name: str = "", limit: int = 100) -> Sequence[RunCommand]:
        """Return at most `limit`, by lower-cased name, after `after_name`."""
        ...

    async def add_command(self, command: RunCommand) -> None:
        """Insert; raise Conflict when machine and name are taken."""
        ...

    async def put_command(self, command: RunCommand) -> None:
        """Replace everything that can change: tags, location, spec, generation, execution, state, modified."""
        ...

    async def get_spec(self, incarnation_id: UUID, generation: int) -> CommandSpec | None:
        """Return what a generation was asked to run, with those of its sealed values that are still kept; or None."""
        ...

    async def delete_command(self, incarnation_id: UUID) -> None:
        """Remove it, its sealed values, its executions and their output; operations and cancels stay.

        The ids of executions with output are kept for `output_removals`.
        """
        ...

    # executions
    async def add_execution(self, execution: Execution) -> None:
        """Insert."""
        ...

    async def get_execution(self, execution_id: UUID) -> Execution | None:
        """Return one, or None."""
        ...

    async def get_execution_for_update(self, execution_id: UUID) -> Execution | None:
        """Return one and lock its row."""
        ...

    async def put_execution(self, execution: Execution) -> None:
        """Replace everything that can change."""
        ...

    async def count_open_executions(self) -> Mapping[str, int]:
        """Return how many executions are not over, by state; states with none may be missing."""
        ...

    async def find_execution(self, incarnation_id: UUID, generation: int) -> Execution | None:
        """Return one by generation, or None."""
        ...

    async def list_executions(
        self, incarnation_id: UUID, *, before_generation: int | None = None, limit: int = 100
    ) -> Sequence[Execution]:
        """Return at most `limit`, newest first, older than `before_generation`."""
        ...

    async def undelivered(self, machine_id: UUID, *, limit: int) -> Sequence[Execution]:
        """Return at most `limit` Pending executions that were never given to a channel, by id; skip locked."""
        ...

    async def delivered_and_open(self, machine_id: UUID) -> Sequence[Execution]:
        """Return those given to a channel and not terminal, by id."""
        ...

    async def overdue(self, *, now: datetime, limit: int) -> Sequence[UUID]:
        """Return at most `limit` Pending executions whose deadline_at is not after `now`, earliest first."""
        ...

    # output: bytes of small streams; longer ones go on in a file (see control/output.py)
    async def received(self, execution_id: UUID) -> Mapping[str, int]:
        """Return how many bytes of each stream are durable; a missing stream is 0."""
        ...

    async def set_received(self, execution_id: UUID, stream: str, received_bytes: int) -> None:
        """Record how many bytes of a stream are durable."""
        ...

    async def add_output(self, execution_id: UUID, stream: str, offset: int, data: bytes) -> None:
        """Store bytes at an offset. The caller makes sure that offset is where the stored bytes end."""
        ...

    async def read_output(self, execution_id: UUID, stream: str, offset: int, limit_bytes: int) -> bytes:
        """Return at most `limit_bytes` of the stored bytes from `offset` on."""
        ...

    # operations
    async def add_operation(self, operation: Operation) -> None:
        """Insert."""
        ...

    async def get_operation(self, operation_id: UUID) -> Operation | None:
        """Return one, or None."""
        ...

    async def put_operation(self, operation: Operation) -> None:
        """Replace state, error and end."""
        ...

    async def open_operations(self, execution_id: UUID) -> Sequence[Operation]:
        """Return those in progress that wait for this execution, locked, by id."""
        ...

    async def open_deletions(self, incarnation_id: UUID) -> Sequence[Operation]:
        """Return the deletions in progress of this incarnation, locked, by id."""
        ...

    async def overdue_deletions(self, *, now: datetime, limit: int) -> Sequence[Operation]:
        """Return at most `limit` deletions in progress whose deadline_at is not after `now`."""
        ...

    async def group_deletions(self) -> Sequence[Operation]:
        """Return the deletions of resource groups in progress, by id."""
        ...

    async def forget_operations(self, *, before: datetime, limit: int) -> int:
        """Remove at most `limit` that ended before then; return how many."""
        ...

    # repeated requests
    async def find_request(
        self, principal_id: UUID, resource_key: str, client_request_id: str
    ) -> AcceptedRequest | None:
        """Return the newest accepted request under that key, or None."""
        ...

    async def put_request(self, request: AcceptedRequest) -> None:
        """Insert, or replace the one under the same key."""
        ...

    async def forget_requests(self, *, before: datetime, limit: int) -> int:
        """Remove at most `limit` accepted before then; return how many."""
        ...

    # cancels on their way
    async def put_cancel(self, order: CancelOrder) -> None:
        """Insert, or replace the one for the same execution (a deletion replaces a cancel, never the reverse)."""
        ...

    async def list_cancels(self, machine_id: UUID) -> Sequence[CancelOrder]:
        """Return those the machine has not confirmed, oldest first."""
        ...

    async def take_cancel(self, execution_id: UUID) -> CancelOrder | None:
        """Remove and return the one for this execution: the machine confirmed it."""
        ...


class Wakeup(Protocol):
    """A place on a topic's list. Use as a context manager; what is woken in between is not lost."""

    def __enter__(self) -> Self:
        """Subscribe."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unsubscribe."""
        ...

    async def wait(self) -> None:
        """Return when the topic was woken since the subscription began or since the last return."""
        ...


class Store(Protocol):
    """A database, open."""

    async def open(self) -> None:
        """Create or migrate the schema, and get ready."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, and let go."""
        ...

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction and return its result after the commit; raise what it raised.

        Raises StoreUnavailable when the database cannot be written; then nothing of `work` happened.
        A caller that is cancelled meanwhile does not stop the commit.
        """
        ...

    async def read(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work`, which must not write, on a consistent snapshot."""
        ...

    def subscribe(self, topic: str) -> Wakeup:
        """Return a subscription to a topic, not yet entered."""
        ...
