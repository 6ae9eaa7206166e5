"""The part of the contract about scale sets and the machines that are their instances."""

from collections.abc import Sequence
from typing import Protocol

from enjoin.model.machine import Machine
from enjoin.model.scale_set import ScaleSet


class ScaleSetTransaction(Protocol):
    """The verbs of scale sets. Names are compared in lower case."""

    async def make_scale_set(self, scale_set: ScaleSet) -> ScaleSet:
        """Insert it unless its name is taken; return the one that has the name now."""
        ...

    async def find_scale_set(self, subscription_id: str, resource_group: str, name: str) -> ScaleSet | None:
        """Return one, or None."""
        ...

    async def find_scale_set_for_update(self, subscription_id: str, resource_group: str, name: str) -> ScaleSet | None:
        """Return one and lock its row."""
        ...

    async def list_scale_sets(
        self, subscription_id: str, *, resource_group: str | None = None, after: tuple[str, str] = ("", ""), limit: int
    ) -> Sequence[ScaleSet]:
        """Return at most `limit`, by group and name; `after` is group and name of the last one on the page before."""
        ...

    async def put_scale_set(self, scale_set: ScaleSet) -> None:
        """Replace location and tags."""
        ...

    async def delete_scale_set(self, subscription_id: str, resource_group: str, name: str) -> None:
        """Remove it. The caller has made sure that it has no instance."""
        ...

    async def list_instances(
        self, subscription_id: str, resource_group: str, scale_set: str, *, after: int = -1, limit: int
    ) -> Sequence[Machine]:
        """Return at most `limit` instances, as such, by number, with one above `after`."""
        ...

    async def count_instances(self, subscription_id: str, resource_group: str, scale_set: str) -> tuple[int, int]:
        """Return how many instances there are, and how many of them are connected."""
        ...
