"""What Azure's clients may ask for and this version does not do."""

import pytest

from tests.unit.api.plane import Plane


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("POST", "{machine}/runCommand", "az vm run-command create"),
        ("GET", "/subscriptions/{subscription}/providers/Microsoft.Compute/locations/local/runCommands", "Built-in"),
        ("GET", "/subscriptions/{subscription}/providers/Microsoft.Compute/locations/local/runCommands/x", "Built-in"),
    ],
)
async def test_what_comes_later(plane: Plane, method: str, path: str, says: str) -> None:
    """
    What this version knows of and does not do is a 400 that says so.
    """
    await plane.machine()
    machine, _, _ = plane.path("c1").rpartition("/runCommands/")
    url = path.format(machine=machine, subscription=machine.split("/")[2])
    answer = await plane.ask(method, url)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "NotSupported")
    assert says in error["message"]
