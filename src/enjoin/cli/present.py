"""How answers are shown: JSON for programs, aligned columns for people."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: object) -> None:
    """Print `value` as JSON that az would print the same way."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their headings, never cut to a width: what is read by a person is also read by awk."""
    lines = [list(headings), *[["" if cell is None else _one_line(str(cell)) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one thing, a line for each field that has a value."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, ""):
            print(f"{name.ljust(width)}  {_one_line(str(value))}")


def say(message: str) -> None:
    """Tell a person who is watching something; a program that reads stderr is told only what it must know."""
    if sys.stderr.isatty():
        print(f"enjoin: {message}", file=sys.stderr, flush=True)


def dig(value: Any, *names: str) -> Any:  # noqa: ANN401 - walks through JSON
    """Return what is found along `names`, None where something is missing on the way."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
