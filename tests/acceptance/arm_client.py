"""Run commands of one machine over the ARM API, as an Azure client that repeats what got no answer."""

import ssl
import time
from typing import Any, Final, Self
from uuid import uuid4

import httpx

from tests.acceptance.processes import LIMIT_S, Agent, ControlPlane, NeverCame, until

API_VERSION: Final = "2024-11-01"
TERMINAL: Final = frozenset({"Succeeded", "Failed", "TimedOut", "Canceled"})
_PAUSE_S: Final = 0.02


class ARMClient:
    """One administrator's requests to one control plane, before and after its restarts."""

    def __init__(self, server: ControlPlane) -> None:
        self._server = server
        self._token = ""
        self.tls = ssl.create_default_context(cafile=server.connection["ca_file"])
        self._http = httpx.Client(verify=self.tls, timeout=LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, *, body: object = None, request_id: str = "") -> httpx.Response:
        """Return the answer; while there is none the same request is sent again, as the Azure SDKs do."""
        own = self._server.connection
        url = httpx.URL(path if path.startswith("https:") else own["endpoint"] + path)
        if "api-version" not in url.params:
            url = url.copy_merge_params({"api-version": API_VERSION})
        headers = {"x-ms-client-request-id": request_id or str(uuid4())}
        end_s = time.monotonic() + LIMIT_S
        while True:
            try:
                headers["Authorization"] = f"Bearer {self._signed_in(own)}"
                return self._http.request(method, url, json=body, headers=headers)
            except httpx.TransportError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(_PAUSE_S)

    def _signed_in(self, own: dict[str, str]) -> str:
        if not self._token:
            form = {name: own[name] for name in ("client_id", "client_secret")}
            form |= {"grant_type": "client_credentials", "scope": f"{own['endpoint']}/.default"}
            answer = self._http.post(f"{own['endpoint']}/{own['tenant_id']}/oauth2/v2.0/token", data=form)
            self._token = answer.raise_for_status().json()["access_token"]
        return self._token

    def on(self, agent: Agent) -> "Commands":
        """Return the run commands of a machine."""
        return Commands(self, agent.resource_id)


class Commands:
    """The run commands of one machine."""

    def __init__(self, client: ARMClient, machine_id: str) -> None:
        self._client, self._machine_id = client, machine_id

    def path(self, name: str) -> str:
        """Return the URL path of one."""
        return f"{self._machine_id}/runCommands/{name}"

    def put(self, name: str, script: str, *, request_id: str = "", **properties: object) -> httpx.Response:
        """Create or replace one and run it; the answer comes before the script has ended."""
        body = {"location": "local", "properties": {"source": {"script": script}, **properties}}
        answer = self._client.request("PUT", self.path(name), body=body, request_id=request_id)
        assert answer.status_code in (200, 201), answer.text
        return answer

    def cancel(self, name: str) -> None:
        """Ask for the end of a script."""
        answer = self._client.request("POST", f"{self.path(name)}/cancel")
        assert answer.status_code == 202, answer.text

    def delete(self, name: str) -> httpx.Response:
        """Delete one; the answer comes before that is done."""
        answer = self._client.request("DELETE", self.path(name))
        assert answer.status_code == 202, answer.text
        return answer

    def get(self, name: str) -> httpx.Response:
        """Return the answer to a GET with the instance view."""
        return self._client.request("GET", f"{self.path(name)}?$expand=instanceView")

    def view(self, name: str) -> dict[str, Any]:
        """Return the instance view."""
        answer = self.get(name)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["properties"]["instanceView"]
        return found

    def execution_id(self, name: str) -> str:
        """Return the id of the current execution."""
        found: str = self.view(name)["enjoin"]["executionId"]
        return found

    def reached(self, name: str, *states: str) -> dict[str, Any]:
        """Wait until the execution is in one of `states`, and return its instance view."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.update(self.view(name))
            return seen["executionState"] in states

        try:
            until(look, f"{name} is {' or '.join(states)}")
        except NeverCame as failure:
            message = f"{failure}; it is {seen}"
            raise NeverCame(message) from None
        return seen

    def ended(self, name: str) -> dict[str, Any]:
        """Wait for a terminal state, and return the instance view."""
        return self.reached(name, *TERMINAL)

    def is_gone(self, name: str) -> None:
        """Wait until a deleted one is not found any more."""
        until(lambda: self.get(name).status_code == 404, f"{name} is deleted")

    def output(self, name: str, stream: str = "stdout", *, generation: int | None = None) -> bytes:
        """Return what the control plane has of a stream now."""
        number = generation or self.view(name)["enjoin"]["generation"]
        answer = self._client.request("GET", f"{self.path(name)}/executions/{number}/output?stream={stream}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def whole_output(self, name: str, size_bytes: int, stream: str = "stdout") -> bytes:
        """Wait until the control plane has `size_bytes` of a stream, and return all that it has."""
        until(lambda: len(self.output(name, stream)) >= size_bytes, f"{size_bytes} bytes of {stream} of {name}")
        return self.output(name, stream)

    def operation(self, answer: httpx.Response) -> dict[str, Any]:
        """Poll the operation that an answer began until it has ended, and return its last status."""
        url = answer.headers["Azure-AsyncOperation"]
        while (status := self._client.request("GET", url).json())["status"] == "InProgress":
            time.sleep(_PAUSE_S)
        found: dict[str, Any] = status
        return found
