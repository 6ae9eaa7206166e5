"""`enjoin serve`: the control plane, composed and run."""

import asyncio
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import msgspec
import uvloop

from enjoin.api.app import create_app
from enjoin.api.services import Services
from enjoin.cli.failure import Failure, UsageFailure
from enjoin.cli.logs import configure_logs
from enjoin.cli.server import BACKLOG, configure, run_server
from enjoin.clock import SystemClock
from enjoin.control.access import Access
from enjoin.control.assignments import Assignments
from enjoin.control.bootstrap import Installation, administrator_secret, bootstrap
from enjoin.control.commands import Commands
from enjoin.control.directory import Directory
from enjoin.control.enrolment import Enrolment
from enjoin.control.groups import Groups
from enjoin.control.health import Health
from enjoin.control.history import History
from enjoin.control.identity import Identity
from enjoin.control.machines import Machines
from enjoin.control.metrics import MeteredStore
from enjoin.control.operations import Operations
from enjoin.control.output import Output
from enjoin.control.pki import ensure_server_certificate, ensure_token_key, write_durably
from enjoin.control.reports import Reports
from enjoin.control.resources import Resources
from enjoin.control.scale_sets import ScaleSets
from enjoin.control.sessions import Sessions
from enjoin.control.sweeper import Sweeper
from enjoin.control.tokens import Tokens
from enjoin.errors import RunCommandError, StoreUnavailable
from enjoin.model.machine import HEARTBEAT
from enjoin.model.retention import DAYS, EXECUTIONS, OUTPUT_BYTES, Retention
from enjoin.store.sqlite import SQLiteStore

RENEW_EVERY_S: Final = 24 * 3600.0
LET_GO_S: Final = 0.5  # for a client to answer the end of its connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line of `enjoin serve`, checked."""

    data_dir: Path
    host: str
    port: int
    public_url: str | None
    tls_cert: Path | None
    tls_key: Path | None
    delivery_deadline: timedelta
    min_agent_version: str | None
    retention: Retention


@click.command("serve", short_help="Run the control plane.")
@click.option(
    "--data-dir", required=True, type=click.Path(path_type=Path, file_okay=False), help="Everything it keeps."
)
@click.option("--listen", required=True, metavar="HOST:PORT", help="Port 0 picks a free one.")
@click.option("--database", metavar="URL", help="Default: SQLite inside the data directory.")
@click.option("--public-url", metavar="URL", help="How clients and machines reach it, if not by --listen.")
@click.option("--tls-cert", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Default: its own CA's.")
@click.option("--tls-key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="With --tls-cert.")
@click.option(
    "--delivery-deadline",
    type=click.FloatRange(min=1),
    default=5400.0,
    show_default=True,
    metavar="S",
    help="Seconds that a command waits for a machine that is away.",
)
@click.option(
    "--keep-days",
    type=click.FloatRange(min=0, min_open=True, max=36500),
    default=float(DAYS),
    show_default=True,
    metavar="D",
    help="Days after its end for which an execution is kept; the newest of each run command always is.",
)
@click.option(
    "--keep-executions",
    type=click.IntRange(min=1),
    default=EXECUTIONS,
    show_default=True,
    metavar="N",
    help="Executions kept of each run command.",
)
@click.option(
    "--keep-output-bytes",
    type=click.IntRange(min=0),
    default=OUTPUT_BYTES,
    show_default=True,
    metavar="B",
    help="Bytes of output kept of all executions together; of past ones the oldest goes first.",
)
@click.option("--min-agent-version", metavar="V", help="Refuse older agents.")
def serve(**given: Any) -> None:  # noqa: ANN401 - click's own words, checked below
    """Run the control plane until SIGTERM. Prints `ready ENDPOINT` when it accepts connections."""
    options = _options(given)
    configure_logs()
    try:
        uvloop.run(_serve(options))
    except (StoreUnavailable, OSError) as error:
        text = f"the control plane cannot run on {options.data_dir}: {error}"
        raise Failure(text) from None
    except RunCommandError as error:
        raise Failure(str(error)) from None


def _options(given: dict[str, Any]) -> Options:
    if given["database"] is not None:
        text = "--database: this version keeps everything in SQLite inside the data directory; leave the option out"
        raise UsageFailure(text)
    if (given["tls_cert"] is None) != (given["tls_key"] is None):
        text = "--tls-cert and --tls-key go together"
        raise UsageFailure(text)
    public_url = given["public_url"]
    if public_url is not None:
        public_url = public_url.rstrip("/")
        if urlsplit(public_url).scheme != "https" or not urlsplit(public_url).hostname:
            text = f"--public-url {public_url}: expected https://HOST[:PORT]"
            raise UsageFailure(text)
    host, port = _address(given["listen"])
    return Options(
        data_dir=given["data_dir"].absolute(),
        host=host,
        port=port,
        public_url=public_url,
        tls_cert=given["tls_cert"],
        tls_key=given["tls_key"],
        delivery_deadline=timedelta(seconds=given["delivery_deadline"]),
        min_agent_version=given["min_agent_version"],
        retention=Retention(
            age=timedelta(days=given["keep_days"]),
            executions=given["keep_executions"],
            output_bytes=given["keep_output_bytes"],
        ),
    )


def _address(listen: str) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the highest port
        text = f"--listen {listen}: expected HOST:PORT, as in 127.0.0.1:8443, [::1]:8443 or 0.0.0.0:0"
        raise UsageFailure(text)
    return host, int(port)


def _endpoint(host: str, port: int) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def _serve(options: Options) -> None:
    options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener = _listen(options)
    endpoint = options.public_url or _endpoint(options.host, listener.getsockname()[1])
    clock = SystemClock()
    store = MeteredStore(SQLiteStore(options.data_dir / "enjoin.db", clock=clock))
    await store.open()
    try:
        await _run(options, listener, endpoint, clock, store)
    finally:
        await store.close()


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    listener.setblocking(False)  # noqa: FBT003 - the socket module's own signature
    return listener


async def _run(
    options: Options, listener: socket.socket, endpoint: str, clock: SystemClock, store: MeteredStore
) -> None:
    installation = await bootstrap(store, clock)
    pki = options.data_dir / "pki"
    hosts = [options.host, "localhost", "127.0.0.1", "::1", socket.gethostname(), urlsplit(endpoint).hostname or ""]
    files = ensure_server_certificate(pki, hosts=hosts, now=clock.now())
    tokens = Tokens(ensure_token_key(pki), tenant_id=installation.tenant_id, public_url=endpoint)
    connection_file = options.data_dir / "connection.json"
    secret = await administrator_secret(
        store, installation.administrator, kept=_kept_secret(connection_file, installation)
    )
    connection = {
        "endpoint": endpoint,
        "ca_file": None if options.tls_cert else str(files.ca_file),
        "tenant_id": installation.tenant_id,
        "subscription_id": installation.subscription_id,
        "resource_group": installation.resource_group,
        "location": installation.location,
        "client_id": installation.administrator.client_id,
        "client_secret": secret,
    }
    services, sessions = _services(
        options=options, endpoint=endpoint, installation=installation, clock=clock, store=store, tokens=tokens
    )
    await sessions.take_over(lease=2 * HEARTBEAT)

    def ready() -> None:
        text = msgspec.json.format(msgspec.json.encode(connection)) + b"\n"
        write_durably(connection_file, text, point="connection")
        click.echo(f"ready {endpoint}")

    config = configure(
        create_app(services),
        certificate=str(options.tls_cert or files.server_file),
        key=str(options.tls_key) if options.tls_key else None,
    )

    async def renew_certificate() -> None:
        while True:
            await clock.sleep(RENEW_EVERY_S)
            if ensure_server_certificate(pki, hosts=hosts, now=clock.now()).renewed and options.tls_cert is None:
                assert config.ssl is not None
                config.ssl.load_cert_chain(files.server_file)

    await run_server(
        config,
        listener,
        stopping=services.stopping,
        when_ready=ready,
        for_ever={
            "sweeper": Sweeper(store, clock, sessions, services.groups, services.history).run(),
            "certificate": renew_certificate(),
        },
    )


def _services(
    *,
    options: Options,
    endpoint: str,
    installation: Installation,
    clock: SystemClock,
    store: MeteredStore,
    tokens: Tokens,
) -> tuple[Services, Sessions]:
    stopping = asyncio.Event()
    sessions = Sessions(store, clock, min_agent_version=options.min_agent_version)
    assignments = Assignments(store, clock)
    output = Output(store, options.data_dir / "output")
    machines = Machines(store, sessions)
    services = Services(
        public_url=endpoint,
        tenant_id=installation.tenant_id,
        subscription_id=installation.subscription_id,
        clock=clock,
        store=store,
        stopping=stopping,
        access=Access(store, clock, tokens),
        identity=Identity(store, clock, tokens),
        directory=Directory(store, clock),
        groups=Groups(store, clock, sessions, delivery_deadline=options.delivery_deadline),
        resources=Resources(store),
        commands=Commands(store, clock, sessions, assignments, output, delivery_deadline=options.delivery_deadline),
        machines=machines,
        scale_sets=ScaleSets(store, machines),
        operations=Operations(store, clock, stopping),
        output=output,
        history=History(store, clock, output, options.retention),
        enrolment=Enrolment(store, clock, sessions, server_name=f"enjoin:{installation.tenant_id}"),
        sessions=sessions,
        assignments=assignments,
        reports=Reports(store, clock, output),
        health=Health(store, clock, sessions, stopping),
    )
    return services, sessions


def _kept_secret(path: Path, installation: Installation) -> str | None:
    """Return the administrator's secret from the file of an earlier run, if it is this installation's."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    secret = kept.get("client_secret")
    return secret if kept.get("client_id") == installation.administrator.client_id and isinstance(secret, str) else None
