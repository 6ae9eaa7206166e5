"""Machines join by a one-time token and a key that never leaves them; Hello is signed with it."""

import base64
from datetime import timedelta

import pytest
from msgspec.structs import replace

from enjoin.control.sessions import MachineGone, Sessions
from enjoin.errors import ChannelError, Conflict, EnrolmentRefused, InvalidField
from enjoin.model.command import Secret
from enjoin.model.execution import ExecutionState
from enjoin.model.machine import MachineKind
from enjoin.testing import Cluster, FakeAgent
from enjoin.testing.cluster import SERVER_NAME, sign

NONCE = bytes(32)


async def test_join(cluster: Cluster) -> None:
    """
    A machine that joined is an ARM resource of its kind, with an identity of its own.
    """
    agent = FakeAgent("Web-1")
    enrolled = await cluster.plane.enrolment.enrol(
        cluster.enrolment_request(agent, await cluster.token(), kind=MachineKind.ARC.value)
    )
    assert enrolled.server_name == SERVER_NAME
    assert not enrolled.replaced
    found = await cluster.plane.machines.get(cluster.machine_address("WEB-1", MachineKind.ARC))
    assert (found.id, found.name, found.connected) == (enrolled.machine.id, "Web-1", False)


async def test_token_is_used_up(cluster: Cluster) -> None:
    """
    A token lets in as many machines as it was made for, and no more.
    """
    token = await cluster.token(uses=2)
    for name in ("m1", "m2"):
        await cluster.plane.enrolment.enrol(cluster.enrolment_request(FakeAgent(name), token))
    with pytest.raises(EnrolmentRefused, match="used up"):
        await cluster.plane.enrolment.enrol(cluster.enrolment_request(FakeAgent("m3"), token))


async def test_token_expires(cluster: Cluster) -> None:
    """
    An expired token lets nobody in, nor does one that nobody made.
    """
    token = await cluster.token(life=timedelta(hours=1))
    cluster.clock.advance(timedelta(hours=1))
    for text in (token, "made-up"):
        with pytest.raises(EnrolmentRefused, match="expired"):
            await cluster.plane.enrolment.enrol(cluster.enrolment_request(FakeAgent("m1"), text))


async def test_token_of_another_group(cluster: Cluster) -> None:
    """
    A token is good for its own group; the refusal uses nothing up.
    """
    agent, token = FakeAgent("m1"), await cluster.token()
    request = cluster.enrolment_request(agent, token)
    with pytest.raises(EnrolmentRefused, match="resource group"):
        await cluster.plane.enrolment.enrol(replace(request, resource_group="other"))
    await cluster.plane.enrolment.enrol(replace(request, resource_group="ENJOIN"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "m2"),
        ("kind", "arc"),
        ("epoch", "another"),
        ("sealing_key", base64.b64encode(bytes(range(32))).decode()),
        ("identity_key", base64.b64encode(bytes(range(32))).decode()),
        ("proof", base64.b64encode(bytes(64)).decode()),
        ("proof", "*"),
        ("token", "stolen"),
    ],
)
async def test_proof_of_possession(cluster: Cluster, field: str, value: str) -> None:
    """
    What the machine signed cannot be changed on its way, and nobody joins with a key that is not theirs.
    """
    token = await cluster.token()
    request = cluster.enrolment_request(FakeAgent("m1"), token)
    with pytest.raises(EnrolmentRefused, match="not signed"):
        await cluster.plane.enrolment.enrol(replace(request, **{field: value}))
    await cluster.plane.enrolment.enrol(request)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", ""), ("name", "../x"), ("name", "a" * 91), ("name", "a."), ("name", "é"), ("kind", "toaster")],
)
async def test_bad_fields(cluster: Cluster, field: str, value: str) -> None:
    """
    A name or kind that no resource can have is refused, naming the field.
    """
    agent = FakeAgent("m1")
    request = replace(cluster.enrolment_request(agent, await cluster.token()), **{field: value})
    with pytest.raises(InvalidField) as refusal:
        await cluster.plane.enrolment.enrol(sign(request, agent))
    assert refusal.value.target == field


@pytest.mark.parametrize("key", ["identity_key", "sealing_key"])
async def test_bad_keys(cluster: Cluster, key: str) -> None:
    """
    A key that is none is refused before anything is looked up.
    """
    request = cluster.enrolment_request(FakeAgent("m1"), await cluster.token())
    for text in ("", "AAAA", "not base64!"):
        with pytest.raises(InvalidField, match="32 bytes"):
            await cluster.plane.enrolment.enrol(replace(request, **{key: text}))


async def test_taken_name(cluster: Cluster) -> None:
    """
    A taken name is refused without using the token up, whatever its case, unless it is replaced.
    """
    first = await cluster.join("m1")
    token = await cluster.token()
    other = FakeAgent("M1")
    with pytest.raises(Conflict, match="already"):
        await cluster.plane.enrolment.enrol(cluster.enrolment_request(other, token))
    enrolled = await cluster.plane.enrolment.enrol(cluster.enrolment_request(other, token, replace=True))
    assert enrolled.replaced
    assert enrolled.machine.id == first.machine_id
    assert enrolled.machine.name == "m1"


async def test_replace(cluster: Cluster) -> None:
    """
    Who holds the old key is no longer the machine: its session ends, its Hello is refused; the new one takes over.
    """
    old = await cluster.join("m1")
    session = old.session
    assert session is not None
    await cluster.put("m1/running")
    await cluster.exchange()
    new = FakeAgent("m1")
    await cluster.enrol(new, replace=True)
    assert session.ended.is_set()
    await cluster.plane.sessions.close(session)
    with pytest.raises(ChannelError, match="not signed"):
        await cluster.connect(old)
    await cluster.connect(new)
    await cluster.exchange(new)
    assert (await cluster.show("m1/running")).execution.state is ExecutionState.UNKNOWN
    accepted = await cluster.put("m1/new")
    await cluster.exchange(new)
    assert new.started == {accepted.view.execution.id: 1}
    await cluster.disconnect(new)
    await cluster.connect(new)
    await cluster.exchange(new)
    assert (await cluster.show("m1/new")).execution.state is ExecutionState.RUNNING


async def test_kept_secrets_of_an_old_key(cluster: Cluster) -> None:
    """
    After a new key, secrets that were kept open for nobody: an update that keeps them is refused and says what to do.
    """
    await cluster.join("m1")
    await cluster.put("m1/c1", protected=[Secret(name="p", value="hunter2")])
    new = FakeAgent("m1")
    await cluster.enrol(new, replace=True)
    with pytest.raises(InvalidField, match="send the secrets again"):
        await cluster.put("m1/c1")
    await cluster.put("m1/c1", protected=[Secret(name="p", value="hunter3")])
    await cluster.put("m1/c1")
    await cluster.put("m1/c1", protected=[])


async def test_hello(cluster: Cluster) -> None:
    """
    A Hello is good for one nonce, one server and one machine, signed with its key.
    """
    agent, other = await cluster.join("m1"), await cluster.join("m2")
    verify = cluster.plane.sessions.verify
    good = agent.hello(nonce=NONCE, server_name=SERVER_NAME)
    await verify(good, nonce=NONCE, server_name=SERVER_NAME)
    for bad, nonce, server_name in (
        (good, b"\1" * 32, SERVER_NAME),
        (good, NONCE, "enjoin:another"),
        (replace(good, machine_id=other.machine_id), NONCE, SERVER_NAME),
        (replace(good, epoch="another"), NONCE, SERVER_NAME),
        (replace(good, signature=bytes(64)), NONCE, SERVER_NAME),
        (replace(good, signature=b""), NONCE, SERVER_NAME),
    ):
        with pytest.raises(ChannelError, match="not signed"):
            await verify(bad, nonce=nonce, server_name=server_name)
    for version in (0, 99):
        with pytest.raises(ChannelError, match="protocol"):
            await verify(replace(good, protocol_version=version), nonce=NONCE, server_name=SERVER_NAME)


@pytest.mark.parametrize(
    ("version", "is_let_in"),
    [("1.33", True), ("1.33.0", True), ("2.0", True), ("1.4", False), ("1.32.9", False), ("", False)],
)
async def test_oldest_agent(cluster: Cluster, version: str, *, is_let_in: bool) -> None:
    """
    Agents older than the server's minimum are refused, and told which it wants (F5).
    """
    agent = await cluster.join()
    sessions = Sessions(cluster.plane.store, cluster.clock, min_agent_version="1.33.0")
    hello = replace(agent.hello(nonce=NONCE, server_name=SERVER_NAME), agent_version=version)
    if is_let_in:
        await sessions.verify(hello, nonce=NONCE, server_name=SERVER_NAME)
    else:
        with pytest.raises(ChannelError, match=r"wants 1\.33\.0"):
            await sessions.verify(hello, nonce=NONCE, server_name=SERVER_NAME)


async def test_deleted_machine(cluster: Cluster) -> None:
    """
    A deleted machine is told so when it comes back, and nobody else is told anything.
    """
    agent = await cluster.join()
    await cluster.disconnect(agent)
    await cluster.plane.machines.delete(cluster.machine_address("m1"))
    with pytest.raises(MachineGone):
        await cluster.connect(agent)
    stranger = FakeAgent("m1")
    stranger.machine_id = agent.machine_id
    with pytest.raises(ChannelError):
        await cluster.connect(stranger)
