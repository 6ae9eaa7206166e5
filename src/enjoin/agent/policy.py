"""What this machine's owner forbids. Asked before anything is fetched, written or started; it wins over the server."""

from typing import Protocol

from enjoin.protocol.messages import Assignment


class Policy(Protocol):
    """Decides over assignments."""

    def refusal(self, assignment: Assignment) -> str | None:
        """Return why the assignment is refused, naming the rule; None when it may run."""
        ...


class OpenPolicy:
    """The policy of a machine whose owner configured none: everything that the control plane sends may run."""

    def refusal(self, assignment: Assignment) -> str | None:  # noqa: ARG002 - the interface of every policy
        """Refuse nothing."""
        return None
