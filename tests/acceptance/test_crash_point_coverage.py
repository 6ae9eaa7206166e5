"""No durable write without a crash point before and after it, and no crash point at which nobody dies."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.acceptance.test_crash_points import ALL
from tests.tools import REPOSITORY

SOURCES: Final = REPOSITORY / "src" / "enjoin"
SYNCS: Final = frozenset({"fsync", "fdatasync"})
NOT_WRITES: Final = {("store/sqlite.py", "_read"): "ends a snapshot that was only read"}
PLACE: Final = "point"  # the parameter by which a function that writes durably is told how to begin its points' names


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function with its calls, in the order of the source."""

    file: str
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def takes_place(self) -> bool:
        """Whether it is told the beginning of its points' names."""
        arguments = self.node.args
        return any(argument.arg == PLACE for argument in (*arguments.args, *arguments.kwonlyargs))

    def calls(self) -> list[ast.Call]:
        """Return the calls in it that are in no function inside it."""
        found: list[ast.Call] = []
        waiting: list[ast.AST] = list(self.node.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.Call):
                found.append(node)
            waiting.extend(ast.iter_child_nodes(node))
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def functions() -> Iterator[Function]:
    """Return every function of the package."""
    for path in sorted(SOURCES.rglob("*.py")):
        file = path.relative_to(SOURCES).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (file, node.name) not in NOT_WRITES:
                yield Function(file=file, node=node)


def called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_durable_write(call: ast.Call) -> bool:
    """Whether bytes are durable when it returns."""
    if called(call) in SYNCS:
        return True
    first = call.args[0] if call.args else None
    return called(call) == "execute" and isinstance(first, ast.Constant) and str(first.value).startswith("COMMIT")


def text_of(node: ast.expr) -> str:
    """Return a string as it is written, with `{name}` where the value of a name goes."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return f"{{{name}}}"
        case ast.JoinedStr(values=values):
            return "".join(text_of(v.value if isinstance(v, ast.FormattedValue) else v) for v in values)
    message = f"line {node.lineno}: the name of a crash point has to be readable in the source"
    raise AssertionError(message)


def place_of(call: ast.Call) -> str | None:
    """Return what a call gives as `point`."""
    return next((text_of(keyword.value) for keyword in call.keywords if keyword.arg == PLACE), None)


def names_in_source() -> set[str]:
    """Return every crash point there is; those of a function that is told `point`, once for each caller."""
    told: dict[str, set[str]] = defaultdict(set)  # function -> what it makes of `{point}`
    given: list[tuple[str, str]] = []  # function that is called, what it is given
    names: set[str] = set()
    for function in functions():
        for call in function.calls():
            if called(call) == "crash_point":
                name = text_of(call.args[0])
                (told[function.node.name] if function.takes_place else names).add(name)
            elif (place := place_of(call)) is not None:
                given.append((called(call), place))
                if function.takes_place:
                    told[function.node.name].add(f"{called(call)}({place})")
    for name, place in given:
        if "{" not in place:
            names.update(expanded(name, place, told))
    return names


def expanded(function: str, place: str, told: dict[str, set[str]]) -> Iterator[str]:
    """Yield the points of a call of `function` with `place`."""
    for name in told[function]:
        inner, bracket, rest = name.partition("(")
        if bracket:
            yield from expanded(inner, rest.removesuffix(")").replace("{point}", place), told)
        else:
            yield name.replace("{point}", place)


def test_points_around_each_durable_write() -> None:
    """
    Each fsync, fdatasync and COMMIT comes between the point that is named X.before and the one that is named X.after.
    """
    found = 0
    for function in functions():
        events = [call for call in function.calls() if is_durable_write(call) or called(call) == "crash_point"]
        for at, call in enumerate(events):
            if not is_durable_write(call):
                continue
            found += 1
            neighbours = [events[at - 1]] * (at > 0) + events[at + 1 : at + 2]
            names = [text_of(other.args[0]) for other in neighbours if called(other) == "crash_point"]
            stem = names[0].removesuffix(".before") if names else ""
            where = f"src/enjoin/{function.file}:{call.lineno}"
            assert names == [f"{stem}.before", f"{stem}.after"], f"{where} writes durably; around it are {names}"
    assert found >= 10, "the search itself finds the writes that there are"


def test_somebody_dies_at_each_point() -> None:
    """
    Each crash point in the source is a case of test_crash_points, and each case is a point in the source.
    """
    assert names_in_source() == ALL


def test_nothing_else_makes_bytes_durable() -> None:
    """
    There is no way past the search: os.sync, O_SYNC and the like are not used.
    """
    ways = ("os.sync(", "syncfs", "O_SYNC", "O_DSYNC", "sync_file_range", "msync", ".commit()")
    used = [
        f"{path.relative_to(REPOSITORY)}: {way}"
        for path in sorted(SOURCES.rglob("*.py"))
        for way in ways
        if way in Path(path).read_text(encoding="utf-8")
    ]
    assert used == []
