"""What a create of `echo hello` costs a Python program that uses the unmodified azure-mgmt-compute.

`begin_create_or_update(...).result()` is three requests: the PUT, one status poll that the server holds until the
script has ended, and the GET of the resource. The PUT alone (`polling=False`) is measured beside it, in turns.
"""

import time
from itertools import count
from typing import Any

from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient

from bench.commands import percentiles
from bench.fleet import Fleet, file_system, fleet

WARM_UP = 20
ROUNDS = 300
GOAL_MS = 60


def main() -> dict[str, Any]:
    """Run and print; return the figures."""
    with fleet("vm") as running:
        figures: dict[str, Any] = {"file_system": file_system(running.directory), **_measure(running)}
    figures["goal_p50_ms"] = GOAL_MS
    print("azure-mgmt-compute: create of `echo hello` on a VM (2 processes, TLS, synchronous=FULL)")
    for name, value in figures.items():
        print(f"  {name:28} {value}")
    return figures


def _measure(running: Fleet) -> dict[str, Any]:
    own = running.connection
    credential = ClientSecretCredential(
        own["tenant_id"],
        own["client_id"],
        own["client_secret"],
        authority=own["endpoint"],
        disable_instance_discovery=True,
        connection_verify=own["ca_file"],
    )
    client = ComputeManagementClient(
        credential,
        own["subscription_id"],
        base_url=own["endpoint"],
        credential_scopes=[f"{own['endpoint']}/.default"],
        connection_verify=own["ca_file"],
    )
    operations: Any = client.virtual_machine_run_commands  # its overloads know no plain dictionary
    body = {"location": own["location"], "properties": {"source": {"script": "echo hello"}}}
    numbers = count()

    def create() -> float:
        begun = time.perf_counter()
        made = operations.begin_create_or_update(own["resource_group"], "bench", f"c{next(numbers)}", body).result()
        took_s = time.perf_counter() - begun
        assert made.properties.provisioning_state == "Succeeded"
        return took_s

    def put() -> float:
        begun = time.perf_counter()
        operations.begin_create_or_update(own["resource_group"], "bench", f"c{next(numbers)}", body, polling=False)
        return time.perf_counter() - begun

    with client, credential:
        for _ in range(WARM_UP):
            create()
        samples = [(create(), put()) for _ in range(ROUNDS)]
    return {
        "create_ms": percentiles([create_s for create_s, _ in samples]),
        "put_alone_ms": percentiles([put_s for _, put_s in samples]),
    }


if __name__ == "__main__":
    main()
