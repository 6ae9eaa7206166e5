"""`enjoin env`: the environment that points other programs at the control plane."""

import shlex

import click

from enjoin.cli.connection import Connection, load
from enjoin.cli.options import connection_file, connection_option


def variables(connection: Connection) -> dict[str, str]:
    """Return the variables that az, azure-identity, the SDKs, Node, requests and curl read."""
    found = {
        "AZURE_CONFIG_DIR": str(connection.az_directory),  # of `enjoin az`, which has signed in there
        "ENJOIN_CONNECTION": str(connection.path),
        "ENJOIN_ENDPOINT": connection.endpoint,
        # An authority below /adfs: the Azure identity libraries then ask this server alone, and not
        # login.microsoftonline.com, whether it may be trusted.
        "AZURE_AUTHORITY_HOST": f"{connection.endpoint}/adfs",
        "AZURE_TENANT_ID": connection.tenant_id,
        "AZURE_CLIENT_ID": connection.client_id,
        "AZURE_CLIENT_SECRET": connection.client_secret,
        "AZURE_SUBSCRIPTION_ID": connection.subscription_id,
    }
    if connection.ca_file is not None:
        ca_file = str(connection.ca_file)
        readers = ("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
        found |= dict.fromkeys(readers, ca_file)  # requests and az; Node; curl; OpenSSL (Python's urllib, httpx, Go)
    return found


@click.command(short_help="Print export lines for az, the Azure SDKs, Node and curl.")
@connection_option
def env() -> None:
    """Print export lines for az, the Azure SDKs, Node and curl: eval "$(enjoin env)".

    They hold the client secret. The certificate authority of the control plane takes the place of the system's in
    the shell that evaluates them.
    """
    for name, value in variables(load(connection_file())).items():
        print(f"export {name}={shlex.quote(value)}")
