"""The documents by which a client finds out, from one URL, where to sign in and where to send requests."""

from typing import Final
from urllib.parse import urlsplit

from enjoin.arm.envelope import Body

ADFS: Final = "adfs"  # MSAL asks Microsoft about any authority but one whose tenant has this name
AZURE_AUDIENCE: Final = "https://management.azure.com/"


def render_metadata(public_url: str, api_version: str) -> Body | list[Body]:
    """Return the cloud's metadata, in the shape that this api-version's clients read."""
    login = f"{public_url}/{ADFS}"
    audiences = [public_url, AZURE_AUDIENCE]
    if api_version.startswith(("1.", "2015-")):
        return {
            "galleryEndpoint": f"{public_url}/",
            "graphEndpoint": f"{public_url}/",
            "portalEndpoint": f"{public_url}/",
            "authentication": {"loginEndpoint": login, "audiences": audiences},
        }
    host = urlsplit(public_url).hostname or "localhost"
    document: Body = {
        "name": "enjoin",
        "portal": f"{public_url}/",
        "resourceManager": f"{public_url}/",
        "graph": f"{public_url}/",
        "graphAudience": f"{public_url}/",
        "microsoftGraphResourceId": f"{public_url}/",
        "gallery": f"{public_url}/",
        "authentication": {
            "loginEndpoint": login,
            "audiences": audiences,
            "tenant": "common",
            "identityProvider": "AAD",
        },
        "batch": f"{public_url}/",
        "media": f"{public_url}/",
        "sqlManagement": f"{public_url}/",
        "vmImageAliasDoc": f"{public_url}/",
        "suffixes": {"storage": f"core.{host}", "keyVaultDns": f"vault.{host}"},
    }
    return document if api_version >= "2022" else [document]


def render_openid_configuration(public_url: str, authority: str) -> Body:
    """Return the sign-in document of an authority: `adfs`, or the tenant's id."""
    base = f"{public_url}/{authority}"
    is_adfs = authority.lower() == ADFS
    endpoints = f"{base}/oauth2" if is_adfs else f"{base}/oauth2/v2.0"
    return {
        "issuer": base if is_adfs else f"{base}/v2.0",
        "authorization_endpoint": f"{endpoints}/authorize",
        "token_endpoint": f"{endpoints}/token",
        "device_authorization_endpoint": f"{endpoints}/devicecode",
        "jwks_uri": f"{base}/discovery/{'keys' if is_adfs else 'v2.0/keys'}",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": ["token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "tenant_region_scope": None,
        "cloud_instance_name": urlsplit(public_url).hostname,
    }
