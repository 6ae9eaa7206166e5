"""Doubles for tests, of Enjoin itself and of what people build on it: time, an agent, a control plane in this process.

Only tests import this package. The database, the use cases and the messages are the real ones; what is doubled is the
clock, which moves when it is told to, and the machine, whose scripts do what the test says.
"""

from enjoin.testing.agent import FakeAgent, Held, Snapshot
from enjoin.testing.clock import ManualClock
from enjoin.testing.cluster import Cluster

__all__ = ["Cluster", "FakeAgent", "Held", "ManualClock", "Snapshot"]
