"""Routes for whoever watches the control plane. Public: they name no resource and no secret."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from enjoin import __version__
from enjoin.api.call import JSON
from enjoin.api.routing import services_of
from enjoin.control.health import Gauges
from enjoin.control.metrics import REGISTRY
from enjoin.model.execution import OPEN


async def get_health(_: Request) -> Response:
    """GET /healthz: the process answers."""
    return JSON({"status": "alive"})


async def get_readiness(request: Request) -> Response:
    """GET /readyz: 200 when commands can be accepted, 503 with the reason when not."""
    await services_of(request).health.require_ready()
    return JSON({"status": "ready"})


async def get_metrics(request: Request) -> Response:
    """GET /metrics: counters, gauges and histograms in the text format of Prometheus."""
    looked = CollectorRegistry()
    looked.register(_Looked(await services_of(request).health.gauges()))
    return Response(generate_latest(REGISTRY) + generate_latest(looked), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Looked(Collector):
    """Gauges as metrics."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        gauges = self._gauges
        build = GaugeMetricFamily("enjoin_build_info", "Always 1; the label tells the version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        executions = GaugeMetricFamily(
            "enjoin_executions_open", "Executions that are not over, by state.", labels=["state"]
        )
        for state in sorted(OPEN):
            executions.add_metric([state.value], gauges.executions.get(state.value, 0))
        yield executions
        yield GaugeMetricFamily(
            "enjoin_agents_connected", "Machines that are connected to this process.", value=gauges.agents
        )
        yield GaugeMetricFamily(
            "enjoin_channel_queue_messages",
            "Messages for machines that are not yet written to their connections.",
            value=gauges.channel_messages,
        )
        yield GaugeMetricFamily(
            "enjoin_store_queue_writes", "Transactions that write and are not over.", value=gauges.store_writes
        )
