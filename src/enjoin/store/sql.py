"""Every query, written once: the verbs of a transaction, grouped by resource."""

from enjoin.store.sql_commands import CommandVerbs
from enjoin.store.sql_directory import DirectoryVerbs
from enjoin.store.sql_executions import ExecutionVerbs
from enjoin.store.sql_history import HistoryVerbs
from enjoin.store.sql_machines import MachineVerbs
from enjoin.store.sql_operations import OperationVerbs
from enjoin.store.sql_scale_sets import ScaleSetVerbs


class SqlTransaction(
    CommandVerbs, DirectoryVerbs, ExecutionVerbs, HistoryVerbs, MachineVerbs, OperationVerbs, ScaleSetVerbs
):
    """A `Transaction` over any connection that speaks SQL."""

    __slots__ = ()

    def wake(self, topic: str) -> None:
        """Wake the subscribers of `topic` after the commit."""
        self._connection.wake(topic)
