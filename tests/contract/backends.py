"""The databases that the contract is tested on. One more is one more line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from enjoin.store.base import Store
from enjoin.store.sqlite import SQLiteStore


def sqlite(directory: Path) -> Store:
    """Return a store in a file of `directory`, not yet open; the same file each time."""
    return SQLiteStore(directory / "enjoin.db")


BACKENDS: Final[Mapping[str, Callable[[Path], Store]]] = {"sqlite": sqlite}
