"""The documentation is tested: a command that a reader may copy was run, and a link leads somewhere.

The fence of a block of shell says how it is kept true; a page's `run` blocks are one session in an empty directory:

    ```sh run                                         executed by this module, in order, with `enjoin` on PATH
    ```sh covered-by=tests/unit/test_x.py::test_y     a test does what the block says
    ```sh covered-by=.ci/run                          that file holds each of the block's lines
"""

import os
import re
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.tools import REPOSITORY, program

PAGE_LIMIT_S: Final = 120
FENCE: Final = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\((?!https?://|mailto:|#)(?P<target>[^)#\s]+)")
HEADING: Final = "covered-by="

# Written so that this file does not hold what it forbids.
_JOINED = "".join
FORBIDDEN: Final[Mapping[str, str]] = {
    _JOINED(["py", "pi", r"\.org"]): "a package index; requirement files must serve behind any mirror (docs/adr/0001)",
    _JOINED(["python", "hosted", r"\.org"]): "a file host of a package index (docs/adr/0001)",
    _JOINED(["registry", r"\.npm", "js"]): "a package registry",
    _JOINED([r"file:/", "//"]): "a path of one machine",
    _JOINED(["/opt/", r"(?:py", "pi|wheels)"]): "a path of one machine",
    _JOINED([r"(?<![\w.-])/wo", r"rk/(?:main|shared|done)\b"]): "a path of one machine",
    _JOINED([r"(?<![\w.-])/ro", r"ot/(?!\.ssh)\w"]): "a path of one machine",
    _JOINED(["/tmp/", r"enjoin/"]): "a path of one machine",
    _JOINED([r"(?<![\w.-])/ho", r"me/(?!user|you)\w+/"]): "a path of one person's machine",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of shell on a page."""

    page: Path
    line: int
    mark: str  # what follows `sh` in the fence
    text: str

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def pages() -> Sequence[Path]:
    """Every page that a reader may copy from."""
    return [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks() -> Sequence[Block]:
    """Every block of shell in the documentation."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            language, _, mark = match["info"].strip().partition(" ")
            line = text.count("\n", 0, match.start()) + 1
            assert language not in {"bash", "shell", "console", ""}, (
                f"{page.name}:{line}: write ```sh for what a reader types, ```text for what is printed"
            )
            if language == "sh":
                found.append(Block(page=page, line=line, mark=mark, text=match["text"]))
    return found


def runnable() -> Mapping[str, str]:
    """The pages that are executed: name -> the blocks marked `run` as one script."""
    scripts: dict[str, str] = defaultdict(str)
    for block in blocks():
        if block.mark == "run":
            scripts[str(block.page.relative_to(REPOSITORY))] += block.text
    return scripts


def test_every_block_is_kept_true() -> None:
    """
    No command stands in the documentation that nothing ever ran.
    """
    unkept = []
    for block in blocks():
        if block.mark == "run":
            continue
        file, _, test = block.mark.removeprefix(HEADING).partition("::")
        path = REPOSITORY / file
        if not block.mark.startswith(HEADING) or not path.is_file():
            unkept.append(f"{block.place}: mark the fence with `run` or `{HEADING}FILE::TEST`, found {block.mark!r}")
            continue
        text = path.read_text(encoding="utf-8")
        if test and f"def {test}(" not in text:
            unkept.append(f"{block.place}: {file} has no {test}")
        if not test:
            lines = [line.partition("  #")[0].strip() for line in block.text.splitlines()]
            unkept += [f"{block.place}: {file} does not hold {line!r}" for line in lines if line not in text]
    assert unkept == []


def test_pages_run(tmp_path: Path) -> None:
    """
    The blocks marked `run` on a page work when they are typed one after the other in an empty directory.
    """
    for number, (page, script) in enumerate(sorted(runnable().items())):
        directory = tmp_path / str(number)
        directory.mkdir()
        code, output = _type_in(script, directory)
        assert code == 0, f"{page}: {output}"


def _type_in(script: str, directory: Path) -> tuple[int, str]:
    """Run `script` as a person would in `directory`; its exit code and all it printed."""
    environment = {
        "HOME": str(directory),
        "PATH": os.pathsep.join([str(REPOSITORY / ".venv/bin"), os.environ["PATH"]]),
        "LANG": "C.UTF-8",
    }
    argv = [str(program("bash")), "-euo", "pipefail", "-c", script]
    with tempfile.TemporaryFile() as output:
        shell = subprocess.Popen(
            argv, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = shell.wait(timeout=PAGE_LIMIT_S)
        finally:
            if shell.poll() is None:
                shell.kill()
            _end_session(shell.pid)  # what the page left in the background
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _end_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGTERM)
    except ProcessLookupError:
        return


def test_links_lead_somewhere() -> None:
    """
    A relative link in the documentation names a file of this repository.
    """
    broken = [
        f"{page.relative_to(REPOSITORY)}: {match['target']}"
        for page in pages()
        for match in LINK.finditer(page.read_text(encoding="utf-8"))
        if not (page.parent / match["target"]).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    """
    A page under docs/ is reachable from docs/index.md.
    """
    index = REPOSITORY / "docs/index.md"
    linked = {(index.parent / match["target"]).resolve() for match in LINK.finditer(index.read_text(encoding="utf-8"))}
    missing = [str(page) for page in (REPOSITORY / "docs").rglob("*.md") if page != index and page not in linked]
    assert missing == []


@pytest.mark.requires("git")
def test_nothing_of_one_machine_is_committed() -> None:
    """
    No committed file names a directory of the machine it was written on, or the host of a package registry.
    """
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    found = []
    for name in filter(None, listing.stdout.split("\0")):
        path = REPOSITORY / name
        if not path.is_file():  # deleted, and not committed yet
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for pattern, reason in FORBIDDEN.items():
            found += [f"{name}: {match[0]}: {reason}" for match in re.finditer(pattern, text)]
    assert found == []


def test_requirement_files_are_locked_and_name_no_host() -> None:
    """
    Each requirement is pinned and hashed, and no line says where it comes from (docs/adr/0001).
    """
    for path in sorted((REPOSITORY / "requirements").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, f"{path.name} names a host"
        options = re.findall(r"^\s*--(?!hash=sha256:)\S+", text, re.MULTILINE)
        assert options == [], f"{path.name} has options beside hashes"
        for requirement in re.split(r"\n(?=[\w])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)):
            assert re.match(r"[\w.\[\],-]+==\S+", requirement), f"{path.name}: not pinned: {requirement[:80]}"
            assert "--hash=sha256:" in requirement, f"{path.name}: no hash: {requirement[:80]}"
