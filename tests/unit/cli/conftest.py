"""What the client's tests share: a control plane that misbehaves, and one command run in this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from enjoin.cli.main import main
from tests.unit.cli.double import SECRET, Double


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def last_line(self) -> str:
        """The last line of stderr."""
        return self.stderr.decode().splitlines()[-1]


class Enjoin(Protocol):
    """Runs `enjoin` with these words."""

    def __call__(self, *words: str) -> Done:
        """Return what it did."""
        ...


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """The control plane that ENJOIN_CONNECTION points to."""
    made = Double(tmp_path)
    monkeypatch.setenv("ENJOIN_CONNECTION", str(made.connection_file))
    yield made
    made.close()


@pytest.fixture
def enjoin(capfdbinary: pytest.CaptureFixture[bytes]) -> Enjoin:
    """The command; whatever it does, the client's secret is never printed."""

    def run(*words: str) -> Done:
        code = main(list(words))
        captured = capfdbinary.readouterr()
        assert SECRET.encode() not in captured.out + captured.err
        return Done(code=code, stdout=captured.out, stderr=captured.err)

    return run
