"""`enjoin join`: make this machine known to a control plane."""

import argparse
import base64
import http.client
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enjoin.agent.channel import tls_context
from enjoin.agent.state import Identity, is_used, save
from enjoin.cli.agent import DEFAULT_STATE
from enjoin.protocol.enrolment import ENROL_PATH, EnrolmentAnswer, EnrolmentRequest, proof_content

TIMEOUT_S: Final = 30.0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 4
EXIT_UNREACHABLE: Final = 5
_EXITS: Final = {400: EXIT_USAGE, 401: EXIT_REFUSED, 403: EXIT_REFUSED, 409: EXIT_USAGE}


class _Refused(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def main(argv: Sequence[str]) -> int:
    """Make the machine's keys, enrol it, and print its resource id."""
    options = _parser().parse_args(argv)
    try:
        resource_id = _join(options)
    except _Refused as refused:
        print(f"enjoin: {refused}", file=sys.stderr)
        return refused.code
    print(resource_id)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="enjoin join", description="Make this machine known to a control plane; its keys never leave it."
    )
    parser.add_argument("--server", required=True, metavar="URL", help="the control plane's endpoint")
    parser.add_argument("--ca-file", type=Path, metavar="F", help="trust this certificate authority alone")
    token = parser.add_mutually_exclusive_group(required=True)
    token.add_argument("--token", metavar="T", help="what `enjoin token create` printed (visible to `ps`)")
    token.add_argument("--token-file", type=Path, metavar="F", help="read the token from here; - for stdin")
    parser.add_argument("--name", help="the machine's name in its resource group; a scale-set instance needs none")
    parser.add_argument("--resource-group", default="", metavar="RG", help="the token's, when left out")
    parser.add_argument("--as", dest="kind", default="arc", metavar="KIND", help="arc (the default), vm or vmss:SET/ID")
    parser.add_argument("--tag", action="append", default=[], metavar="K=V", help="a tag; may be repeated")
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE, metavar="DIR", help="(%(default)s)")
    parser.add_argument("--replace", action="store_true", help="take over a name that is in use")
    return parser


def _join(options: argparse.Namespace) -> str:
    directory: Path = options.state_dir
    if is_used(directory):
        text = f"{directory} is already the state of a machine; choose another with --state-dir"
        raise _Refused(EXIT_USAGE, text)
    kind, name = _address(options)
    ca_pem = _read(options.ca_file, "--ca-file") if options.ca_file else None
    token = options.token or _token(options.token_file)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(directory, 0o700)  # noqa: PTH101 - may have been made before, more open
    except OSError as error:
        text = f"{directory} cannot be used as the state directory: {error.strerror}; choose another with --state-dir"
        raise _Refused(EXIT_USAGE, text) from None
    signing, sealing = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    request = EnrolmentRequest(
        token=token,
        name=name,
        kind=kind,
        resource_group=options.resource_group,
        tags=_tags(options.tag),
        identity_key=_public(signing),
        sealing_key=_public(sealing),
        epoch=uuid4().hex,
        replace=options.replace,
        proof="",
    )
    proof = base64.b64encode(signing.sign(proof_content(request))).decode()
    server = options.server.rstrip("/")
    answer = _enrol(server, options.ca_file, msgspec.structs.replace(request, proof=proof))
    identity = Identity(
        server=server,
        machine_id=UUID(answer.machine_id),
        resource_id=answer.resource_id,
        name=options.name or name,
        server_name=answer.server_name,
        sealing_key_id=answer.sealing_key_id,
        epoch=request.epoch,
    )
    save(directory, identity, signing_key=signing, sealing_key=sealing, ca_pem=ca_pem)
    return answer.resource_id


def _address(options: argparse.Namespace) -> tuple[str, str]:
    """Return what the machine joins as, and under which name: SET/ID for a scale-set instance."""
    kind, _, instance = options.kind.partition(":")
    if kind == "vmss" and instance.count("/") == 1:
        return kind, instance
    if options.kind not in ("arc", "vm"):
        text = f"--as {options.kind}: a machine joins as arc, vm or vmss:SET/ID"
        raise _Refused(EXIT_USAGE, text)
    if not options.name:
        text = "--name is missing: say what the machine is to be called in its resource group"
        raise _Refused(EXIT_USAGE, text)
    return kind, options.name


def _public(key: Ed25519PrivateKey | X25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _enrol(server: str, ca_file: Path | None, request: EnrolmentRequest) -> EnrolmentAnswer:
    url = urlsplit(server)
    if url.scheme != "https" or not url.hostname:
        text = f"--server {server}: expected https://HOST[:PORT]"
        raise _Refused(EXIT_USAGE, text)
    try:
        connection = http.client.HTTPSConnection(
            url.hostname, url.port or 443, timeout=TIMEOUT_S, context=tls_context(ca_file)
        )
        path = f"{url.path.rstrip('/')}{ENROL_PATH}?api-version=2024-11-01"
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, body=msgspec.json.encode(request), headers=headers)
        response = connection.getresponse()
        body = response.read(1 << 20)
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = f"{server} cannot be reached: {error}; check the address, and --ca-file for its certificate"
        raise _Refused(EXIT_UNREACHABLE, text) from None
    if response.status != http.HTTPStatus.CREATED:
        raise _Refused(_EXITS.get(response.status, EXIT_FAILED), _message(response.status, body))
    try:
        return msgspec.json.decode(body, type=EnrolmentAnswer)
    except msgspec.MsgspecError:
        text = f"{server} answered something that is not Enjoin's; check the address"
        raise _Refused(EXIT_UNREACHABLE, text) from None


def _message(status: int, body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{error['message']} ({error['code']})"
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}; check the address"


def _tags(pairs: Sequence[str]) -> dict[str, str]:
    tags = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            text = f"--tag {pair}: expected NAME=VALUE"
            raise _Refused(EXIT_USAGE, text)
        tags[name] = value
    return tags


def _token(path: Path) -> str:
    return (sys.stdin.read() if str(path) == "-" else _read(path, "--token-file").decode(errors="replace")).strip()


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        text = f"{option} {path}: {error.strerror}"
        raise _Refused(EXIT_USAGE, text) from None
