"""ETag, If-Match and If-None-Match on run commands (RFC 9110, section 13)."""

import pytest

from enjoin.model.execution import Event
from tests.unit.api.plane import Plane, command_body


async def test_tag_of_every_answer(plane: Plane) -> None:
    """
    PUT, PATCH, GET and lists carry one tag, which each write changes and which is strong.
    """
    await plane.machine()
    created = await plane.put()
    shown = await plane.ask("GET", plane.path("c1"))
    listed = (await plane.ask("GET", plane.path())).json()["value"][0]
    assert created.headers["ETag"] == shown.headers["ETag"] == shown.json()["etag"] == listed["etag"]
    assert created.headers["ETag"].startswith('"')
    tagged = await plane.ask("PATCH", plane.path("c1"), {"tags": {"a": "1"}})
    replaced = await plane.put()
    tags = {created.headers["ETag"], tagged.headers["ETag"], replaced.headers["ETag"]}
    assert len(tags) == 3
    await plane.ask("DELETE", plane.path("c1"))
    assert (await plane.put()).headers["ETag"] not in tags


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_if_match(plane: Plane, method: str) -> None:
    """
    A write with a tag that is no longer the resource's is 412 and changes nothing; with the tag that is, it goes on.
    """
    await plane.machine()
    old = (await plane.put()).headers["ETag"]
    body = {"tags": {"a": "1"}, **command_body("echo changed")}
    new = (await plane.ask("PATCH", plane.path("c1"), {"tags": {"b": "2"}})).headers["ETag"]
    for header in (old, f"W/{new}", '"nonsense"', ""):
        refused = await plane.ask(method, plane.path("c1"), body, headers={"If-Match": header})
        assert (refused.status_code, refused.json()["error"]["code"]) == (412, "PreconditionFailed")
    assert (await plane.ask("GET", plane.path("c1"))).headers["ETag"] == new
    done = await plane.ask(method, plane.path("c1"), body, headers={"If-Match": f"{old}, {new}"})
    assert done.status_code == (202 if method == "DELETE" else 200)


async def test_create_only_and_update_only(plane: Plane) -> None:
    """
    If-None-Match: * creates and never replaces; If-Match: * replaces and never creates.
    """
    await plane.machine()
    assert (await plane.put(If_Match="*")).status_code == 412
    assert (await plane.put(If_None_Match="*")).status_code == 201
    assert (await plane.put(If_None_Match="*")).status_code == 412
    assert (await plane.put(If_Match="*")).status_code == 200
    assert (await plane.ask("DELETE", plane.path("none"), headers={"If-Match": "*"})).status_code == 204


async def test_tag_of_a_put_is_good_after_its_end(plane: Plane) -> None:
    """
    What the server itself moves on does not stand against a client that writes with the tag of its own PUT.
    """
    session = await plane.connect(await plane.machine())
    tag = (await plane.put()).headers["ETag"]
    await plane.report(session, await plane.execution_id(), Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    assert (await plane.ask("GET", plane.path("c1"))).headers["ETag"] != tag
    assert (await plane.put(If_Match=tag)).status_code == 200


async def test_not_modified(plane: Plane) -> None:
    """
    A reader that has the very state gets 304 without a body; never where the instance view is shown.
    """
    session = await plane.connect(await plane.machine())
    tag = (await plane.put()).headers["ETag"]
    for known in (tag, f"W/{tag}", "*"):
        answer = await plane.ask("GET", plane.path("c1"), headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    expanded = await plane.ask("GET", plane.path("c1"), headers={"If-None-Match": tag}, expand="instanceView")
    assert expanded.status_code == 200
    await plane.report(session, await plane.execution_id(), Event.STARTED, Event.EXITED_ZERO, exit_code=0)
    assert (await plane.ask("GET", plane.path("c1"), headers={"If-None-Match": tag})).status_code == 200
