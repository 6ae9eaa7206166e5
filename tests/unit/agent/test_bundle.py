"""The directory of one execution, whatever a crash, or the script itself, left in it."""

import json
import os
import stat
import subprocess
import zlib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enjoin.agent.bundle import Bundle, Exit, Started, write_durably
from enjoin.agent.records import encode_spec, raw, seal, unseal

STARTED = Started(execution_id="x", boot_id="b", pid=1, start_ticks=1, start_number=1, cgroup=None, wall_s=0.5)
EXIT = Exit(
    exit_code=-1,
    signal=9,
    reason="signaled",
    wall_s=0.5,
    duration_s=2.5,
    leftovers=True,
    stdout_bytes=3,
    stderr_bytes=4,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """One that was just created."""
    bundle = Bundle.of(tmp_path, "0190-abc")
    bundle.create(b"echo")
    return bundle


def modes(path: Path) -> dict[str, str]:
    """The permissions of everything in a directory."""
    return {entry.name: f"{stat.S_IMODE(entry.lstat().st_mode):o}" for entry in path.iterdir()}


def test_created(bundle: Bundle) -> None:
    """
    All that a shim needs is there, for nobody else to read.
    """
    assert stat.S_IMODE(bundle.path.stat().st_mode) == 0o700
    assert modes(bundle.path) == {"script": "500", "work": "700", "stdout": "600", "stderr": "600", "exit": "600"}
    assert bundle.script.read_bytes() == b"echo"
    assert (bundle.is_claimed(), bundle.read_started(), bundle.read_exit()) == (False, None, None)
    assert bundle.lock_holder() is None


def test_created_again(bundle: Bundle) -> None:
    """
    A half-made bundle is mended; one that a shim has claimed is left as it is.
    """
    bundle.script.unlink()
    (bundle.path / "script.draft").write_bytes(b"half")
    (bundle.path / "stdout").unlink()
    bundle.create(b"echo 2")
    assert bundle.script.read_bytes() == b"echo 2"
    assert modes(bundle.path).keys() == {"script", "work", "stdout", "stderr", "exit"}
    bundle.started.touch()
    bundle.create(b"echo 3")
    assert bundle.script.read_bytes() == b"echo 2"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "x" * 65, "é", "x\n"])
def test_id_is_a_name(tmp_path: Path, name: str) -> None:
    """
    No execution id leads out of the state directory.
    """
    with pytest.raises(ValueError, match="execution id"):
        Bundle.of(tmp_path, name)


def test_records(bundle: Bundle) -> None:
    """
    What a shim writes is what is read; of several lines the last whole one counts.
    """
    bundle.started.write_bytes(seal(asdict(STARTED)))
    bundle.exit.write_bytes(seal(asdict(STARTED)) + b"torn" + b"\n" + seal(asdict(EXIT)))
    assert bundle.read_started() == STARTED
    assert bundle.read_exit() == EXIT


def test_record_of_a_later_version(bundle: Bundle) -> None:
    """
    A record that says more than this version knows is read all the same: shims outlive a downgrade (case 77).
    """
    bundle.exit.write_bytes(seal(asdict(EXIT) | {"new": [1]}))
    assert bundle.read_exit() == EXIT


@pytest.mark.parametrize("cut", range(len(seal(asdict(EXIT)))))
def test_torn_record(bundle: Bundle, cut: int) -> None:
    """
    A record that was cut anywhere is no record, and a claim all the same.
    """
    for path in (bundle.started, bundle.exit):
        path.write_bytes(seal(asdict(EXIT))[:cut])
    assert bundle.read_exit() is None
    assert bundle.read_started() is None
    assert bundle.is_claimed()


@given(st.binary())
def test_garbage_is_no_record(data: bytes) -> None:
    """
    No bytes crash the reader.
    """
    assert unseal(data) is None


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b"{", b'{"pid": 1}', b"\xff"])
def test_sealed_garbage_is_no_record(bundle: Bundle, text: bytes) -> None:
    """
    A whole line that says something else is no record either.
    """
    bundle.exit.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    assert bundle.read_exit() is None


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.booleans()))
def test_sealed_is_unsealed(fields: dict[str, object]) -> None:
    """
    A line holds any fields, newlines in them included.
    """
    assert seal(fields).count(b"\n") == 1
    assert unseal(seal(fields)) == fields


@given(st.binary())
def test_bytes_travel_in_a_spec(value: bytes) -> None:
    """
    Any bytes arrive in a shim as they were sent.
    """
    assert raw(json.loads(encode_spec({"argv": [value]}))["argv"][0]) == value


def test_record_is_no_link(bundle: Bundle) -> None:
    """
    A record that is a symbolic link is not followed.
    """
    target = bundle.path.parent / "elsewhere"
    target.write_bytes(seal(asdict(EXIT)))
    bundle.exit.unlink()
    bundle.exit.symlink_to(target)
    assert bundle.read_exit() is None


def test_first_cancel_stays(bundle: Bundle) -> None:
    """
    A second reason does not replace the first one, and a bundle that is gone is no error.
    """
    bundle.request_cancel("canceled")
    bundle.request_cancel("deleted")
    assert (bundle.path / "cancel").read_text() == "canceled"
    assert bundle.remove()
    bundle.request_cancel("deleted")


def test_forbidden_start(bundle: Bundle) -> None:
    """
    A bundle whose start was forbidden is claimed for ever; one that a shim has claimed cannot be forbidden.
    """
    assert bundle.forbid_start()
    assert bundle.forbid_start()
    assert bundle.is_claimed()
    assert bundle.read_started() is None
    bundle.started.write_bytes(seal(asdict(STARTED)))
    assert not bundle.forbid_start()
    bundle.started.write_bytes(b"torn")
    assert bundle.forbid_start()


def test_removed(bundle: Bundle) -> None:
    """
    Everything that a script can leave is deleted, except what only a link leads to.
    """
    outside = bundle.path.parent / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    work = bundle.path / "work"
    (work / "link").symlink_to(outside)
    (work / "closed").mkdir()
    (work / "closed/file").touch()
    (work / "closed").chmod(0)
    os.mkfifo(work / "fifo")
    (work / os.fsdecode(b"\xff\n")).touch()
    assert bundle.remove()
    assert not bundle.path.exists()
    assert (outside / "kept").exists()
    assert bundle.remove(), "what is gone is gone"


def test_deep_tree_is_removed(bundle: Bundle) -> None:
    """
    Directories nested deeper than descriptors or the stack would bear are deleted.
    """
    here = os.open(bundle.path / "work", os.O_RDONLY)
    for depth in range(1500):
        os.mkdir(f"d{depth % 7}", dir_fd=here)
        below = os.open(f"d{depth % 7}", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert bundle.remove()
    assert not bundle.path.exists()


def test_removal_is_bounded(bundle: Bundle) -> None:
    """
    One call deletes at most its limit, and the next goes on.
    """
    for number in range(50):
        (bundle.path / f"work/{number}").touch()
    assert not bundle.remove(limit=20)
    assert len(list((bundle.path / "work").iterdir())) >= 30
    while not bundle.remove(limit=20):
        pass
    assert not bundle.path.exists()


@pytest.mark.requires("root")
def test_mount_is_not_entered(bundle: Bundle) -> None:
    """
    What a script mounted below its directory is not deleted with it.
    """
    outside = bundle.path.parent / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    point = bundle.path / "work/mount point"
    point.mkdir()
    if subprocess.run(["mount", "--bind", outside, point], check=False).returncode != 0:
        pytest.skip("this machine does not let root mount")
    try:
        assert not bundle.remove()
        assert (outside / "kept").exists()
    finally:
        subprocess.run(["umount", point], check=True)
    assert bundle.remove()
    assert (outside / "kept").exists()


def test_written_durably(tmp_path: Path) -> None:
    """
    A file is replaced as a whole, and no draft stays.
    """
    path = tmp_path / "file"
    write_durably(path, b"one", point="test")
    write_durably(path, b"two", point="test")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
