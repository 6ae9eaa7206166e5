"""News about files."""

import asyncio
from pathlib import Path

from enjoin.agent.inotify import Inotify, Mask


async def test_events_of_files_and_directories(tmp_path: Path) -> None:
    """
    An event names its watch, what happened, and the entry when a directory is watched.
    """
    path = tmp_path / "file"
    path.touch()
    with Inotify() as inotify:
        assert inotify.read_now() == []
        directory = inotify.add(tmp_path, Mask.CREATE)
        file = inotify.add(path, Mask.MODIFY | Mask.CLOSE_WRITE)
        assert inotify.add(path, Mask.MODIFY | Mask.CLOSE_WRITE) == file
        waiting = asyncio.create_task(inotify.read())
        path.write_bytes(b"x")
        assert {(event.wd, event.mask) for event in await waiting} <= {(file, Mask.MODIFY), (file, Mask.CLOSE_WRITE)}
        inotify.read_now()
        (tmp_path / "né w").touch()
        (event,) = await inotify.read()
        assert (event.wd, event.mask, event.name) == (directory, Mask.CREATE, "né w")
        inotify.remove(file)
        inotify.remove(file)
        assert [event.mask for event in await inotify.read()] == [Mask.IGNORED]
        path.write_bytes(b"y")
        assert inotify.read_now() == []


async def test_canceled_reader_leaves_no_trace(tmp_path: Path) -> None:
    """
    A wait that was given up does not swallow what the next one is to see.
    """
    with Inotify() as inotify:
        inotify.add(tmp_path, Mask.CREATE)
        waiting = asyncio.create_task(inotify.read())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        (tmp_path / "x").touch()
        assert [event.name for event in await inotify.read()] == ["x"]
    inotify.close()
