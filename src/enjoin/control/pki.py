"""The installation's own certificate authority, its server certificate, and the key that signs access tokens."""

import hashlib
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enjoin.crashpoints import crash_point
from enjoin.errors import RunCommandError

CA_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=397)  # the longest that every client accepts
RENEW_BEFORE: Final = timedelta(days=60)
_CLOCKS_DIFFER: Final = timedelta(hours=1)  # a client whose clock is behind accepts a new certificate too
_RSA_BITS: Final = 2048
_MAX_COMMON_NAME: Final = 64


class BrokenPKI(RunCommandError):
    """A file below DIR/pki is not what Enjoin wrote there."""

    code = "BrokenPKI"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """What a TLS server and its clients are given."""

    ca_file: Path  # for clients
    server_file: Path  # certificate and key in one file, so that they cannot be of different times
    renewed: bool  # whether `server_file` was written just now


def ensure_server_certificate(directory: Path, *, hosts: Sequence[str], now: datetime) -> ServerFiles:
    """Make what is missing below `directory` and renew a server certificate that ends soon or lacks a host.

    The authority is made once and kept, for machines pin it. Raises BrokenPKI when its file cannot be read.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _ensure_authority(directory, now=now)
    public = authority.certificate.public_bytes(Encoding.PEM)
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    if not ca_file.exists() or ca_file.read_bytes() != public:
        write_durably(ca_file, public, point="pki.ca", mode=0o644)
    names = _names(hosts)
    renewed = not _is_good(server_file, authority, names, now=now)
    if renewed:
        write_durably(server_file, _issue(authority, names, now=now), point="pki.server")
    return ServerFiles(ca_file=ca_file, server_file=server_file, renewed=renewed)


def ensure_token_key(directory: Path) -> rsa.RSAPrivateKey:
    """Return the key that signs access tokens, made on the first call."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "token-key.pem"
    if not path.exists():
        write_durably(path, _key_pem(rsa.generate_private_key(65537, _RSA_BITS)), point="pki.token_key")
    key = _load_key(path)
    if not isinstance(key, rsa.RSAPrivateKey):
        text = f"{path} holds no RSA key; remove it to have a new one made (then everyone signs in again)."
        raise BrokenPKI(text)
    return key


def key_id(key: rsa.RSAPublicKey) -> str:
    """Return what names a token key: the start of its fingerprint."""
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()[:32]


def write_durably(path: Path, data: bytes, *, point: str, mode: int = 0o600) -> None:
    """Replace `path`. After a crash it holds the old bytes or the new, never a mixture.

    `point` begins the names of its crash points.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        crash_point(f"{point}.before")
        os.fsync(file.fileno())
        crash_point(f"{point}.after")
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        crash_point(f"{point}.directory.before")
        os.fsync(directory)  # the rename must survive a power cut too
        crash_point(f"{point}.directory.after")
    finally:
        os.close(directory)


def _ensure_authority(directory: Path, *, now: datetime) -> Authority:
    path = directory / "authority.pem"
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Enjoin certificate authority")])
        certificate = (
            _builder(name, name, key.public_key(), now=now, life=CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        write_durably(path, _key_pem(key) + certificate.public_bytes(Encoding.PEM), point="pki.authority")
    key_read = _load_key(path)
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        text = f"{path} holds no certificate; restore it, or remove it and have every machine join again."
        raise BrokenPKI(text) from error
    if not isinstance(key_read, ec.EllipticCurvePrivateKey) or certificate.public_key() != key_read.public_key():
        text = f"{path} holds a certificate and a key that do not belong together; restore it from a copy."
        raise BrokenPKI(text)
    return Authority(certificate=certificate, key=key_read)


def _issue(authority: Authority, names: Sequence[x509.GeneralName], *, now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    common = str(names[0].value)[:_MAX_COMMON_NAME]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    life = min(SERVER_LIFE, authority.certificate.not_valid_after_utc - now)
    certificate = (
        _builder(subject, issuer, key.public_key(), now=now, life=life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + _key_pem(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + life)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_good(path: Path, authority: Authority, names: Sequence[x509.GeneralName], *, now: datetime) -> bool:
    """Whether the server certificate at `path` can be served from now on; any doubt makes a new one."""
    try:
        data = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(data)
        key = load_pem_private_key(data, password=None)
        certificate.verify_directly_issued_by(authority.certificate)
        there = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        key.public_key() == certificate.public_key()
        and set(names) <= set(there)
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE
    )


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Return the subject alternative names: what was asked for, and what every server on a machine is called."""
    names: list[x509.GeneralName] = []
    for host in (*hosts, "localhost", "127.0.0.1", "::1"):
        name = _name(host)
        if name is not None and name not in names:
            names.append(name)
    return names


def _name(host: str) -> x509.GeneralName | None:
    """Return the name of one host; None for a wildcard address and for what cannot be in a certificate."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        try:
            return x509.DNSName(host.encode("idna").decode().lower()) if host else None
        except UnicodeError:
            return None
    return None if address.is_unspecified else x509.IPAddress(address)


def _load_key(path: Path) -> object:
    try:
        return load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        text = f"{path} holds no private key; restore it from a copy."
        raise BrokenPKI(text) from error


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
