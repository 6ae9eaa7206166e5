"""docs/reference/rest-api.md is complete and true."""

import re
from collections.abc import Iterator

from enjoin import errors
from enjoin.api.app import LINES
from enjoin.api.routing import SIGNED_IN, Entry, Guarded
from enjoin.errors import ChannelError, RunCommandError
from enjoin.model import operation
from tests.tools import REPOSITORY

PAGE = (REPOSITORY / "docs/reference/rest-api.md").read_text(encoding="utf-8")
ROUTE = re.compile(
    r"^\| (?P<verbs>[A-Z, ]+) `(?P<path>[^`]+)`(?: \((?:ours|not yet: 400)\))? \| (?P<permission>.*) \|$", re.MULTILINE
)
GROUP = "/subscriptions/{subscription}/resourceGroups/{group}"
SCALE_SET = f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/{{scale_set}}"
ERROR = re.compile(r"^\| (?P<status>\d{3}) \| `(?P<code>\w+)` \|", re.MULTILINE)
MACHINE = f"{GROUP}/providers/TYPE/{{machine}}"


def written(entry: Entry) -> tuple[str, str, str]:
    """Return a route as the page writes it."""
    path = entry.path.replace("{machine_type}", "TYPE").replace("{authority:.+}", "{authority}")
    if not isinstance(entry.endpoint, Guarded):
        return entry.method, path, "public"
    permission = entry.endpoint.permission.replace("{machine_type}", "TYPE")
    path = path.replace(MACHINE, "MACHINE").replace(SCALE_SET, "SCALESET")
    return entry.method, path, "a token" if permission == SIGNED_IN else f"`{permission}`"


def test_every_route_is_described() -> None:
    """
    The page lists each route with its permission, and no other.
    """
    found = {
        (verb, match["path"], re.split(r"[:;]", match["permission"])[0])
        for match in ROUTE.finditer(PAGE)
        for verb in match["verbs"].split(", ")
    }
    assert found == {written(entry) for entry in LINES}


def kinds(parent: type[RunCommandError]) -> Iterator[type[RunCommandError]]:
    """Return an error and all below it that errors.py defines."""
    if parent.__module__ == errors.__name__ and parent is not ChannelError:  # the channel's is never an HTTP answer
        yield parent
    for child in parent.__subclasses__():
        yield from kinds(child)


def test_every_error_is_described() -> None:
    """
    The page lists each code with its status, and no other.
    """
    found = {(int(match["status"]), match["code"]) for match in ERROR.finditer(PAGE)}
    assert found == {(kind.status, kind.code) for kind in kinds(RunCommandError)}


def test_every_code_of_an_operation_is_described() -> None:
    """
    The page lists each code that a failed operation may have.
    """
    codes = [operation.NOT_RUN_CODE, operation.FAILURE_CODE, operation.UNKNOWN_CODE, operation.PREEMPTED.code]
    assert [code for code in codes if f"| `{code}` |" not in PAGE] == []
