"""How the processes of a tree are found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from enjoin.agent import containment

# A process whose second thread starts the child.
FAMILY = f"""
import os, subprocess, sys, threading
def fork():
    child = subprocess.Popen([{sys.executable!r}, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"])
    child.wait()
thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("kernel_lists_children", [True, False])
def test_descendants(monkeypatch: pytest.MonkeyPatch, *, kernel_lists_children: bool) -> None:
    """
    Children of every thread and their children are found, in both ways that kernels offer, and nobody else.
    """
    if kernel_lists_children and not Path("/proc/thread-self/children").exists():
        pytest.skip("this kernel was built without CONFIG_PROC_CHILDREN")
    monkeypatch.setattr(containment, "_KERNEL_LISTS_CHILDREN", kernel_lists_children)
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        assert parent.stdout.readline() == b"ready\n"
        below = containment.descendants(parent.pid)
        assert len(below) == 1
        assert parent.pid in containment.descendants(os.getpid())
        assert below < containment.descendants(os.getpid())
        assert containment.descendants(below.pop()) == set()
        parent.stdin.close()
    assert parent.returncode == 0
    assert parent.pid not in containment.descendants(os.getpid())
