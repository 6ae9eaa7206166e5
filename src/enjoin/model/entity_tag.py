"""Entity tags: what names one state of a resource, and the conditions that clients put on it (RFC 9110, section 13)."""

from dataclasses import dataclass
from typing import Final

from enjoin.errors import PreconditionFailed
from enjoin.model.command import RunCommand
from enjoin.model.directory import ResourceGroup

ANY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityTag:
    """A strong tag. `written` changes with each write of a client, `shown` also when the server moves the state on."""

    written: str
    shown: str

    def __str__(self) -> str:
        return f'"{self.shown}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """What `If-Match` and `If-None-Match` said; None when a header was absent. Tags are without their quotes."""

    if_match: frozenset[str] | None = None  # weak tags are not in it: they never match here
    if_none_match: frozenset[str] | None = None

    def check(self, tag: EntityTag | None, *, what: str) -> None:
        """Raise PreconditionFailed unless a write of `what`, whose tag this is (None: not there), may go on.

        Only what clients wrote counts: a tag from the answer to a PUT is good after that PUT's operation ended.
        """
        if self.if_match is not None and not _names(self.if_match, tag):
            found = f"its entity tag is {tag}" if tag is not None else "it does not exist"
            text = f"If-Match does not hold for {what}: {found}. Read it again, then decide."
            raise PreconditionFailed(text)
        if self.if_none_match is not None and _names(self.if_none_match, tag):
            text = f"If-None-Match does not hold for {what}: it exists with entity tag {tag}."
            raise PreconditionFailed(text)

    def is_known(self, tag: EntityTag) -> bool:
        """Whether a reader has this very state already: the answer to its GET is 304."""
        return self.if_none_match is not None and not self.if_none_match.isdisjoint({tag.shown, ANY})


NO_PRECONDITION: Final = Precondition()


def _names(given: frozenset[str], tag: EntityTag | None) -> bool:
    if tag is None:
        return False
    return ANY in given or any(text.rpartition(".")[0] == tag.written for text in given)


def command_tag(command: RunCommand) -> EntityTag:
    """Return the tag of a run command, without what becomes of its execution."""
    written = f"{command.incarnation_id.hex}-{command.generation}-{command.revision}"
    return EntityTag(written=written, shown=f"{written}.{command.provisioning_state.value}")


def group_tag(group: ResourceGroup) -> EntityTag:
    """Return the tag of a resource group."""
    written = f"{int(group.created_at.timestamp() * 1_000_000):x}-{group.revision}"
    return EntityTag(written=written, shown=f"{written}.{group.provisioning_state.value}")
