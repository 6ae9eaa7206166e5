"""Starts scripts under shims, finds the shims that an earlier agent left, and says how every script ended."""

import asyncio
import json
import os
import select
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Final

from enjoin.agent.bundle import Bundle, Started, boot_id
from enjoin.agent.containment import (
    KILL_WAIT_S,
    end_cgroup,
    end_marked,
    find_base,
    remove_base,
    remove_cgroup,
    start_ticks,
)
from enjoin.agent.inotify import Inotify, Mask
from enjoin.agent.interpreter import Invocation
from enjoin.agent.pool import Pool
from enjoin.agent.records import encode_spec, receive
from enjoin.agent.recovery import INTERRUPTED_BEFORE_START, Observation
from enjoin.agent.script import AlreadyClaimed, CouldNotStart, Lost, Script

GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL
MAX_UNANSWERED: Final = 64  # requests at a time; the kernel bounds descriptors in flight
MAX_ATTEMPTS: Final = 5  # to find a shim that takes a request
DYING_LOOKS: Final = 100
CLAIM_LOOKS: Final = 25  # a shim creates `started`, locks it and fills it in well under a millisecond
_LOOK_S: Final = 0.02
_MESSAGE_BYTES: Final = 64 * 1024


class Supervisor:
    """The agent's view of all shims of one state directory. At most one agent uses a state directory at a time."""

    def __init__(self, state_directory: Path, *, use_cgroups: bool = True) -> None:
        base = find_base(str(state_directory)) if use_cgroups else None
        self._base = base
        self._pool = Pool(base=base, log=state_directory / "forkserver.log")
        self._boot_id = boot_id()
        self._unanswered = asyncio.Semaphore(MAX_UNANSWERED)
        self._inotify: Inotify | None = None
        self._launched: dict[socket.socket, Script] = {}  # by control socket
        self._adopted: dict[Script, int] = {}  # to the watch on its `exit`
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def containment(self) -> str:
        """Return "cgroup" or "subreaper": how the fork server contains the scripts that it starts."""
        return self._pool.containment

    async def start(self) -> None:
        """Bring up the fork server. Raises OSError when it cannot be."""
        self._inotify = Inotify()
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._look)
        await self._pool.start()

    async def stop(self) -> None:
        """End the fork server and the idle spares. Running scripts go on, to be adopted by the next agent."""
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for control, script in self._launched.items():
            loop.remove_reader(control.fileno())
            control.close()
            script.close()
        self._launched.clear()
        for script in list(self._adopted):
            self._unfollow(script)
            script.close()
        if self._inotify is not None:
            loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
        await self._pool.stop()
        if self._base is not None:
            remove_base(self._base)

    async def launch(
        self,
        bundle: Bundle,
        invocation: Invocation,
        *,
        timeout_s: float | None,
        grace_s: float = GRACE_S,
        end_leftovers: bool = False,
        start_number: int = 1,
    ) -> Script:
        """Hand a created bundle to a shim; `started()` of the answer tells whether it got to start the script.

        `grace_s` lies between SIGTERM and SIGKILL whenever the tree is ended. `end_leftovers`: also what still runs
        after the script ended by itself.
        """
        script = Script(bundle)
        script.request = encode_spec(
            {
                "bundle": str(bundle.path),
                "execution_id": bundle.execution_id,
                "start_number": start_number,
                "argv": invocation.argv,
                "env": list(invocation.env.items()),
                "prelude": invocation.prelude,
                "timeout_s": timeout_s,
                "grace_s": grace_s,
                "end_leftovers": end_leftovers,
            }
        )
        await self._unanswered.acquire()
        script.when_answered(self._unanswered.release)
        try:
            await self._submit(script)
        except BaseException:
            script.fail(CouldNotStart("the agent stopped before a shim took it"))
            raise
        return script

    async def _submit(self, script: Script) -> None:
        assert script.request is not None
        script.attempts += 1
        control = await self._pool.submit(script.request)
        self._launched[control] = script
        asyncio.get_running_loop().add_reader(control.fileno(), self._hear, script, control)

    def _hear(self, script: Script, control: socket.socket) -> None:
        try:
            data, descriptors = receive(control, _MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if data:
            script.hear(json.loads(data), descriptors)
            if not script.has_ended:
                return
        asyncio.get_running_loop().remove_reader(control.fileno())
        self._launched.pop(control, None)
        control.close()
        if not script.has_ended:
            self._run(self._after_silence(script))

    async def _after_silence(self, script: Script) -> None:
        """Find out what became of a script whose shim closed the control socket without an exit."""
        bundle = script.bundle
        if not script.is_answered and not bundle.is_claimed():  # nobody holds the request, nor ever will
            if script.attempts < MAX_ATTEMPTS:
                await self._submit(script)
            else:
                script.fail(CouldNotStart(f"{MAX_ATTEMPTS} shims in a row died before they took it"))
        elif not script.is_answered and bundle.lock_holder() is not None:  # that of another request
            script.fail(AlreadyClaimed(f"execution {bundle.execution_id} was started before"))
        else:
            await self._conclude(script)

    async def _conclude(self, script: Script) -> None:
        """Say how a claimed script ended whose shim is dead."""
        started, end = script.bundle.read_started(), script.bundle.read_exit()
        if started is None:  # the script is started only after the claim is whole
            await _settle_claim(script.bundle)
            is_held = script.bundle.lock_holder() is not None  # by the shim of another request
            script.fail(
                AlreadyClaimed(script.bundle.execution_id) if is_held else CouldNotStart(INTERRUPTED_BEFORE_START)
            )
            return
        if not script.is_answered and (end is None or end.reason != "could_not_start"):
            script.settle_started(started)
        script.settle_ended(end or await self._end_remains(started, grace_s=0))

    async def _end_remains(self, started: Started, *, grace_s: float) -> Lost:
        """End what can be found of a script whose shim is dead, and was not recycled."""
        if started.boot_id != self._boot_id:
            return Lost(was_alive=False, may_remain=False)
        if not await _has_ended(started):  # it serves another script by now: not our cgroup
            return Lost(was_alive=False, may_remain=True)
        if started.cgroup is None:
            was_alive, _ = await asyncio.to_thread(end_marked, started.execution_id, grace_s=grace_s)
            return Lost(was_alive=was_alive, may_remain=True)
        was_alive, may_remain = await asyncio.to_thread(end_cgroup, started.cgroup, grace_s=grace_s)
        remove_cgroup(started.cgroup)
        return Lost(was_alive=was_alive, may_remain=may_remain)

    async def adopt(self, bundle: Bundle) -> Script | None:
        """Return the script whose shim, of this agent or an earlier one, still holds the bundle; None if none does.

        Once per bundle at a time.
        """
        await _settle_claim(bundle)
        pidfd = _pin(bundle)
        if pidfd is None:
            return None
        started = bundle.read_started()
        while started is None and bundle.lock_holder() is not None:  # it is writing its claim
            await asyncio.sleep(_LOOK_S)
            started = bundle.read_started()
        if started is None:
            os.close(pidfd)
            return None
        script = Script(bundle)
        script.settle_started(started, pidfd)
        assert self._inotify is not None
        self._adopted[script] = self._inotify.add(bundle.exit, Mask.CLOSE_WRITE)
        asyncio.get_running_loop().add_reader(pidfd, self._check, script)
        self._check(script)
        return script

    def _check(self, script: Script) -> None:
        """See whether an adopted script ended: by its record, or with its shim."""
        end = script.bundle.read_exit()
        if end is not None:
            self._unfollow(script)
            script.settle_ended(end)
        elif _is_dead(script.pidfd):
            self._unfollow(script)
            self._run(self._conclude(script))

    def _unfollow(self, script: Script) -> None:
        assert self._inotify is not None
        self._inotify.remove(self._adopted.pop(script))
        asyncio.get_running_loop().remove_reader(script.pidfd)

    def _look(self) -> None:
        assert self._inotify is not None
        events = self._inotify.read_now()
        dirty = {event.wd for event in events}
        everything = any(event.mask & Mask.Q_OVERFLOW for event in events)
        for script, watch in list(self._adopted.items()):
            if everything or watch in dirty:
                self._check(script)

    async def examine(self, bundle: Bundle) -> tuple[Observation, Script | None]:
        """Look at what an earlier agent left, for `recover()`; the Script is there when its shim is alive.

        What runs without a shim, and has no exit record, is ended here: nobody could tell how it ends.
        """
        was_claimed = bundle.is_claimed()
        script = await self.adopt(bundle) if bundle.read_exit() is None else None
        is_claimed = bundle.is_claimed()
        if is_claimed and not was_claimed:  # by a shim that found an earlier agent's request just now
            return await self.examine(bundle)
        lost = Lost(was_alive=False, may_remain=False)
        started, end = bundle.read_started(), bundle.read_exit()
        if script is None and end is None and started is not None:
            lost = await self._end_remains(started, grace_s=0)
            end = bundle.read_exit()
        observation = Observation(
            exit=end,
            shim_is_alive=script is not None,
            is_claimed=is_claimed,
            started=started,
            is_same_boot=started is not None and started.boot_id == self._boot_id,
            was_alive=lost.was_alive,
            may_remain=lost.may_remain,
        )
        return observation, script

    async def end_leftovers(self, bundle: Bundle, *, grace_s: float = GRACE_S) -> bool:
        """End whatever still runs of an execution, its script included; return whether something may remain."""
        started = bundle.read_started()
        if started is None or started.boot_id != self._boot_id:
            return False
        if (pidfd := _pin(bundle)) is not None:  # the script runs, or its shim stays with what it left behind
            bundle.request_cancel("what is left of it is to end")
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGUSR1)
            os.close(pidfd)
            if not await _released(bundle, limit_s=grace_s + 2 * KILL_WAIT_S):
                return True
        end = bundle.read_exit()
        if end is not None and not end.leftovers:
            return False
        return (await self._end_remains(started, grace_s=grace_s)).may_remain

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _pin(bundle: Bundle) -> int | None:
    """Return a pidfd of the shim that holds `bundle`; None if none does."""
    pid = bundle.lock_holder()
    if pid is None:
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if bundle.lock_holder() != pid:  # asked again: only now the pidfd is known to be the holder's
        os.close(pidfd)
        return None
    return pidfd


def _is_dead(pidfd: int) -> bool:
    poll = select.poll()  # unlike select(), for descriptors of any number
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


async def _settle_claim(bundle: Bundle) -> None:
    """Wait for a claim that is just being made; one of which nothing comes is made final: nobody may start it."""
    for _ in range(CLAIM_LOOKS):
        if not bundle.is_claimed() or bundle.has_whole_claim() or bundle.lock_holder() is not None:
            return
        await asyncio.sleep(_LOOK_S)
    await asyncio.to_thread(bundle.forbid_start)


async def _has_ended(started: Started) -> bool:
    """Return whether the shim is dead; one that is just dying has let go of everything, and is waited for."""
    for _ in range(DYING_LOOKS):
        if start_ticks(str(started.pid)) != started.start_ticks:
            return True
        await asyncio.sleep(_LOOK_S)
    return False


async def _released(bundle: Bundle, *, limit_s: float) -> bool:
    """Wait until no shim holds `bundle`; return whether that came about in time."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limit_s
    while bundle.lock_holder() is not None:
        if loop.time() > end_s:
            return False
        await asyncio.sleep(_LOOK_S)
    return True
