"""The unmodified Azure SDKs for Python, pointed at a control plane; what they send, get and sleep is written down."""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from azure.core.pipeline.transport import RequestsTransport
from azure.core.polling import LROPoller
from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.hybridcompute import HybridComputeManagementClient

from tests.acceptance.processes import Agent, ControlPlane

RESOURCE_GROUP: Final = "enjoin"
Body: TypeAlias = MutableMapping[str, Any]  # what the SDKs take beside their model classes
Model: TypeAlias = Any  # the two SDKs' models have no common type


@dataclass(slots=True)
class Traffic:
    """What a client did."""

    requests: list[tuple[str, str]] = field(default_factory=list)  # method, path
    request_ids: list[str] = field(default_factory=list)  # x-ms-client-request-id
    statuses: list[int] = field(default_factory=list)
    answers: list[dict[str, str]] = field(default_factory=list)  # headers, names in lower case
    slept_s: list[float] = field(default_factory=list)

    def clear(self) -> None:
        """Forget all."""
        self.requests.clear()
        self.request_ids.clear()
        self.statuses.clear()
        self.answers.clear()
        self.slept_s.clear()

    @property
    def methods(self) -> str:
        """The methods in order."""
        return " ".join(method for method, _ in self.requests)


class Recorder(RequestsTransport):  # type: ignore[misc] # azure-core imports it lazily, so its type is not known
    """The SDK's own transport, which writes down what goes by."""

    def __init__(self, traffic: Traffic, ca_file: str) -> None:
        super().__init__(connection_verify=ca_file)
        self._traffic = traffic

    def send(self, request: Any, **options: Any) -> Any:  # noqa: ANN401 - the SDK's own types differ by version
        """Send a request."""
        self._traffic.requests.append((request.method, urlsplit(request.url).path))
        self._traffic.request_ids.append(request.headers["x-ms-client-request-id"])
        response = super().send(request, **options)
        self._traffic.statuses.append(response.status_code)
        self._traffic.answers.append({name.lower(): value for name, value in response.headers.items()})
        return response

    def sleep(self, duration: float) -> None:
        """Sleep, as the SDK does between polls and between tries."""
        self._traffic.slept_s.append(duration)
        super().sleep(duration)


class Commands(Protocol):
    """The run commands of one machine, whichever of the two SDKs it takes."""

    def begin_create(self, name: str, body: Body, **options: Any) -> LROPoller[Model]:  # noqa: ANN401
        """Create or replace one."""
        ...

    def get(self, name: str) -> Model:
        """Return one with its instance view."""
        ...

    def list(self, **options: Any) -> Iterable[Model]:  # noqa: ANN401
        """Return all."""
        ...

    def begin_delete(self, name: str) -> LROPoller[None]:
        """Delete one."""
        ...


@dataclass(frozen=True, slots=True)
class VMCommands:
    """Those of a VM: azure-mgmt-compute."""

    client: ComputeManagementClient
    vm_name: str

    def begin_create(self, name: str, body: Body, **options: Any) -> LROPoller[Model]:  # noqa: ANN401
        """Create or replace one."""
        operations: Any = self.client.virtual_machine_run_commands
        poller: LROPoller[Model] = operations.begin_create_or_update(
            RESOURCE_GROUP, self.vm_name, name, body, **options
        )
        return poller

    def get(self, name: str) -> Model:
        """Return one with its instance view."""
        operations = self.client.virtual_machine_run_commands
        return operations.get_by_virtual_machine(RESOURCE_GROUP, self.vm_name, name, expand="instanceView")

    def list(self, **options: Any) -> Iterable[Model]:  # noqa: ANN401
        """Return all."""
        return self.client.virtual_machine_run_commands.list_by_virtual_machine(RESOURCE_GROUP, self.vm_name, **options)

    def begin_delete(self, name: str) -> LROPoller[None]:
        """Delete one."""
        return self.client.virtual_machine_run_commands.begin_delete(RESOURCE_GROUP, self.vm_name, name)


@dataclass(frozen=True, slots=True)
class ArcCommands:
    """Those of an Arc machine: azure-mgmt-hybridcompute."""

    client: HybridComputeManagementClient
    machine_name: str

    def begin_create(self, name: str, body: Body, **options: Any) -> LROPoller[Model]:  # noqa: ANN401
        """Create or replace one."""
        operations: Any = self.client.machine_run_commands
        poller: LROPoller[Model] = operations.begin_create_or_update(
            RESOURCE_GROUP, self.machine_name, name, body, **options
        )
        return poller

    def get(self, name: str) -> Model:
        """Return one; this SDK cannot ask for the instance view, which is there nevertheless."""
        return self.client.machine_run_commands.get(RESOURCE_GROUP, self.machine_name, name)

    def list(self, **options: Any) -> Iterable[Model]:  # noqa: ANN401
        """Return all."""
        return self.client.machine_run_commands.list(RESOURCE_GROUP, self.machine_name, **options)

    def begin_delete(self, name: str) -> LROPoller[None]:
        """Delete one."""
        return self.client.machine_run_commands.begin_delete(RESOURCE_GROUP, self.machine_name, name)


class SDK:
    """Both clients of one principal, made as the documentation of azure-identity says for a cloud of one's own."""

    def __init__(
        self,
        server: ControlPlane,
        *,
        endpoint: str | None = None,
        tenant: str = "",
        client_id: str = "",
        client_secret: str = "",
    ) -> None:
        """Take what is given instead of what the connection file says."""
        connection = server.connection
        self.endpoint = endpoint or connection["endpoint"]
        self.traffic = Traffic()
        own_tenant = connection["tenant_id"]
        self.credential = ClientSecretCredential(
            tenant or own_tenant,
            client_id or connection["client_id"],
            client_secret or connection["client_secret"],
            authority=self.endpoint,
            disable_instance_discovery=tenant != "adfs",
            connection_verify=connection["ca_file"],
        )
        options: dict[str, Any] = {
            "base_url": self.endpoint,
            "credential_scopes": [f"{self.endpoint}/.default"],
        }
        ca_file = connection["ca_file"]
        subscription = connection["subscription_id"]
        self.compute = ComputeManagementClient(
            self.credential, subscription, transport=Recorder(self.traffic, ca_file), **options
        )
        self.hybrid = HybridComputeManagementClient(
            self.credential, subscription, transport=Recorder(self.traffic, ca_file), **options
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.compute.close()
        self.hybrid.close()
        self.credential.close()

    def on(self, agent: Agent) -> Commands:
        """Return the run commands of a machine."""
        if "/virtualMachines/" in agent.resource_id:
            return VMCommands(self.compute, agent.name)
        return ArcCommands(self.hybrid, agent.name)


def body(script: str, **properties: object) -> Body:
    """Return a run command that runs `script`."""
    return {"location": "local", "properties": {"source": {"script": script}, **properties}}
