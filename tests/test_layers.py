"""The layers of Enjoin are enforced here: who may import whom, and why a ban exists."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.tools import REPOSITORY

SOURCE: Final = REPOSITORY / "src"

# Lowest first. A layer imports from itself and from below: then a reader of one layer never needs the ones above.
LAYERS: Final = (
    ("errors", "clock", "config", "crashpoints"),
    ("model",),
    ("protocol", "arm"),
    ("store", "blob"),
    ("control",),
    ("api",),
    ("cli",),
)
RANK: Final = {name: rank for rank, names in enumerate(LAYERS) for name in names}

_SERVER_IS_ELSEWHERE: Final = "the control plane knows agents by protocol only: they may be of another version"
# Beyond the order: importer -> imported -> reason. The agent stands beside the order, so its bans are all listed.
BANS: Final[Mapping[str, Mapping[str, str]]] = {
    "agent": {
        "arm": "a machine knows nothing of ARM: protocol is the whole vocabulary of the two halves",
        "store": "a machine keeps a journal and bundles, never the control plane's database",
        "blob": "a machine reaches blobs by the URLs that it was given",
        "control": "use cases belong to the control plane",
        "api": "the server is never loaded in the agent's process",
        "cli": "the command line composes the agent, never the other way round",
    },
    "protocol": {"arm": "the agent imports protocol, and ARM must not come along to the machine"},
    "arm": {"agent": _SERVER_IS_ELSEWHERE},
    "store": {"agent": _SERVER_IS_ELSEWHERE},
    "blob": {"agent": _SERVER_IS_ELSEWHERE},
    "control": {"agent": _SERVER_IS_ELSEWHERE},
    "api": {"agent": _SERVER_IS_ELSEWHERE},
}
SERVER: Final = frozenset({"store", "blob", "control", "api"})
SERVER_ROOTS: Final = frozenset({"enjoin.cli.serve"})  # where the command line composes the server
AGENT_ROOTS: Final = frozenset({"enjoin.cli.agent", "enjoin.cli.join"})

MACHINE_PACKAGES: Final = frozenset({"websockets", "cryptography", "msgspec"})
FORBIDDEN_NAMES: Final = frozenset({"utils", "helpers", "common", "manager"})
MAX_LINES: Final = 400
MAX_SHIM_LINES: Final = 250  # nobody can restart the shim: it must be small enough to be right
LOADED_BY_NAME: Final = {"uvloop": "uvicorn loads it", "httptools": "uvicorn loads it"}
PACKAGE_OF_IMPORT: Final = {"jwt": "pyjwt", "prometheus_client": "prometheus-client"}  # where the two names differ


@cache
def modules() -> Mapping[str, Path]:
    """Every module of Enjoin by its dotted name."""
    found = {}
    for path in sorted((SOURCE / "enjoin").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """What `module` imports anywhere in its text, also inside functions, but not for type checkers alone."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in modules())
    return frozenset(names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children: list[ast.AST] = list(node.orelse)
    else:
        yield node
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _executed(child)


def reached_from(*entries: str) -> Mapping[str, tuple[str, ...]]:
    """Everything that importing `entries` may load, each with the chain of modules that leads to it."""
    chains: dict[str, tuple[str, ...]] = {}
    waiting: list[tuple[str, tuple[str, ...]]] = [(entry, (entry,)) for entry in entries]
    while waiting:
        name, chain = waiting.pop(0)
        if name in chains:
            continue
        chains[name] = chain
        if name in modules():
            parts = name.split(".")
            parents = [".".join(parts[:length]) for length in range(1, len(parts))]  # their __init__ runs too
            waiting += [(target, (*chain, target)) for target in [*parents, *sorted(imports(name))]]
    return chains


def foreign(names: Mapping[str, tuple[str, ...]], *, allowed: frozenset[str]) -> list[str]:
    """The chains in `names` that end outside Enjoin, the standard library and `allowed`."""
    known = allowed | sys.stdlib_module_names | {"enjoin"}
    return [" -> ".join(chain) for name, chain in names.items() if name.partition(".")[0] not in known]


def part(module: str) -> str:
    """The first name below `enjoin`: a module of the lowest layer or a package."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_place() -> None:
    """
    A new package or top-level module is put into a layer before it is used.
    """
    known = {"", "agent", "testing", *RANK}
    assert {module for module in modules() if part(module) not in known} == set()


def test_layers() -> None:
    """
    No layer imports from one above it, and no ban is broken.
    """
    broken = []
    for module in modules():
        own = part(module)
        for target in {name for name in imports(module) if name in modules()}:
            other = part(target)
            if own in RANK and other in RANK and RANK[other] > RANK[own]:
                broken.append(f"{module} imports {target}: {other} is a layer above {own}")
            if other in BANS.get(own, {}):
                broken.append(f"{module} imports {target}: {BANS[own][other]}")
            if own != "testing" and other == "testing":
                broken.append(f"{module} imports {target}: test doubles stay out of the product")
    assert broken == []


def test_client_does_not_load_the_server() -> None:
    """
    A noun of the command line talks to the public API only; one module composes the server, two the agent.
    """
    broken = [
        f"{module} imports {target}"
        for module in modules()
        if part(module) == "cli"
        for target in imports(module)
        if (part(target) in SERVER and module not in SERVER_ROOTS)
        or (part(target) == "agent" and module not in AGENT_ROOTS)
    ]
    assert broken == []


@pytest.mark.parametrize("entry", ["enjoin.cli.main", *sorted(AGENT_ROOTS)])
def test_what_a_machine_loads(entry: str) -> None:
    """
    `enjoin join` and `enjoin agent` load the standard library, websockets, cryptography and msgspec, nothing else:
    they are installed on machines that we do not own.
    """
    assert entry in modules(), f"{entry} is gone; a renamed entry must not lift the ban"
    reached = reached_from(entry)
    assert foreign(reached, allowed=MACHINE_PACKAGES) == []
    banned = BANS["agent"].keys() - {"cli"}
    assert [" -> ".join(chain) for name, chain in reached.items() if part(name) in banned] == []


@pytest.mark.parametrize("entry", ["enjoin.agent.forkserver", "enjoin.agent.shim"])
def test_fork_server_and_shim_are_standard_library_only(entry: str) -> None:
    """
    The process that forks shims, and the shims, carry nothing third-party: small, and nothing to break in an upgrade.
    """
    assert entry in modules(), f"{entry} is gone; a renamed entry must not lift the ban"
    assert foreign(reached_from(entry), allowed=frozenset()) == []


def test_dispatcher_reaches_its_verbs_by_name_only() -> None:
    """
    The dispatcher imports nothing of Enjoin but its version, so each verb pays for its own imports.
    """
    assert {name for name in imports("enjoin.cli.main") if name.startswith("enjoin")} == {"enjoin"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_size_and_name(module: str) -> None:
    """
    A module fits in a head: at most 400 lines (the shim 250), and its name says what it is about.
    """
    lines = len(modules()[module].read_text(encoding="utf-8").splitlines())
    limit = MAX_SHIM_LINES if module == "enjoin.agent.shim" else MAX_LINES
    assert lines <= limit, f"{module} has {lines} lines, at most {limit}: split it along a noun"
    assert FORBIDDEN_NAMES.isdisjoint(module.split("."))


def test_dependencies_are_honest() -> None:
    """
    What the product imports is declared, and what is declared is imported.
    """
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    roots = {name.partition(".")[0] for module in modules() for name in imports(module)}
    used = {PACKAGE_OF_IMPORT.get(root, root) for root in roots - sys.stdlib_module_names - {"enjoin"}}
    assert used - declared == set(), "imported, not declared"
    assert declared - used - LOADED_BY_NAME.keys() == set(), "declared, never imported"
