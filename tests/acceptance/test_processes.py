"""What the other acceptance tests stand on."""

from tests.acceptance.processes import Agent, ControlPlane, Fleet, until


def test_shared_machines(server: ControlPlane, machine: Agent, vm: Agent) -> None:
    """
    A control plane with one machine of each kind runs a script on both, and the exit code is the script's own.
    """
    for agent in (machine, vm):
        done = server.enjoin("run", agent.name, "--", 'printf "%s" hello; exit 7')
        assert (done.returncode, done.stdout, done.stderr) == (7, b"hello", b"")


def test_nothing_outlives_a_fleet(fleet: Fleet) -> None:
    """
    A server and an agent come back where they were after a kill, and no script of a test outlives it.
    """
    server = fleet.control_plane()
    agent = fleet.agent(server, "m1")
    endpoint = server.endpoint
    server.text("run", "m1", "--name", "long", "--detach", "--", "sleep 600")
    until(lambda: agent.bundles and agent.bundles[0].read_started(), "the script starts")
    [bundle] = agent.bundles
    agent.kill()
    server.kill()
    assert bundle.lock_holder() is not None, "the shim lives on"
    server.start()
    assert server.endpoint == endpoint
    agent.start()
    agent.close()
    assert bundle.lock_holder() is None
