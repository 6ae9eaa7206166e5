"""The installation's own certificates."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from enjoin.control.pki import (
    CA_LIFE,
    RENEW_BEFORE,
    SERVER_LIFE,
    BrokenPKI,
    ensure_server_certificate,
    ensure_token_key,
    key_id,
)

NOW = datetime.now(UTC)
HOSTS = ["192.0.2.7", "fd00::1", "Enjoin.Example", "0.0.0.0", "::", ""]  # noqa: S104 - names, not bound


def certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a file."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(server_file: Path, ca_file: Path, host: str) -> str:
    """Connect to a server with the certificate as a strict client does; return the version of TLS."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(server_file)
    client = ssl.create_default_context(cafile=ca_file)
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=lambda: server.wrap_socket(theirs, server_side=True).close())
        thread.start()
        try:
            with client.wrap_socket(ours, server_hostname=host) as wrapped:
                return wrapped.version() or ""
        finally:
            thread.join()


def test_strict_clients_accept_it(tmp_path: Path) -> None:
    """
    A client that checks as Python 3.13 does accepts the certificate under each of its names and addresses.
    """
    files = ensure_server_certificate(tmp_path, hosts=HOSTS, now=NOW)
    for host in ("192.0.2.7", "fd00::1", "enjoin.example", "localhost", "127.0.0.1", "::1"):
        assert handshake(files.server_file, files.ca_file, host) == "TLSv1.3"


def test_what_is_in_it(tmp_path: Path) -> None:
    """
    Critical basicConstraints and keyUsage, both key identifiers; wildcard addresses are no names.
    """
    files = ensure_server_certificate(tmp_path, hosts=HOSTS, now=NOW)
    own, authority = certificate(files.server_file), certificate(files.ca_file)
    own.verify_directly_issued_by(authority)
    for one, is_ca in ((own, False), (authority, True)):
        constraints = one.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = one.extensions.get_extension_for_class(x509.KeyUsage)
        assert (constraints.critical, constraints.value.ca) == (True, is_ca)
        assert (usage.critical, usage.value.key_cert_sign) == (True, is_ca)
        assert isinstance(one.public_key(), ec.EllipticCurvePublicKey)
    subject = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert own.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == subject
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["enjoin.example", "localhost"]
    assert [str(name) for name in names.get_values_for_type(x509.IPAddress)] == [
        "192.0.2.7",
        "fd00::1",
        "127.0.0.1",
        "::1",
    ]


def test_files_are_private(tmp_path: Path) -> None:
    """
    Keys are readable by their owner only; the authority's certificate is for everyone.
    """
    directory = tmp_path / "pki"
    ensure_server_certificate(directory, hosts=[], now=NOW)
    ensure_token_key(directory)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"authority.pem": 0o600, "server.pem": 0o600, "token-key.pem": 0o600, "ca.pem": 0o644}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    """
    As long as the certificate is good, it is kept.
    """
    first = ensure_server_certificate(tmp_path, hosts=HOSTS, now=NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = ensure_server_certificate(tmp_path, hosts=HOSTS[:2], now=NOW)
    assert (first.renewed, second.renewed) == (True, False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("hosts", "later"),
    [
        (["other.example"], timedelta(0)),
        ([], SERVER_LIFE - RENEW_BEFORE + timedelta(days=1)),
        ([], SERVER_LIFE * 2),
        ([], timedelta(days=-2)),
    ],
)
def test_renewal(tmp_path: Path, hosts: list[str], later: timedelta) -> None:
    """
    A new name, a near end, a past end or a clock that went back make a new certificate; the authority stays.
    """
    first = ensure_server_certificate(tmp_path, hosts=[], now=NOW)
    old, pinned = certificate(first.server_file), first.ca_file.read_bytes()
    second = ensure_server_certificate(tmp_path, hosts=hosts, now=NOW + later)
    new = certificate(second.server_file)
    assert second.renewed
    assert new.serial_number != old.serial_number
    assert new.not_valid_before_utc <= NOW + later < new.not_valid_after_utc
    assert second.ca_file.read_bytes() == pinned


def test_it_never_outlives_its_authority(tmp_path: Path) -> None:
    """
    Near the authority's own end the server certificate ends with it.
    """
    ensure_server_certificate(tmp_path, hosts=[], now=NOW)
    files = ensure_server_certificate(tmp_path, hosts=[], now=NOW + CA_LIFE - timedelta(days=5))
    assert certificate(files.server_file).not_valid_after_utc <= certificate(files.ca_file).not_valid_after_utc


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_server_certificate_is_replaced(tmp_path: Path, damage: bytes) -> None:
    """
    What can be made again is made again.
    """
    files = ensure_server_certificate(tmp_path, hosts=[], now=NOW)
    files.server_file.write_bytes(damage)
    files.ca_file.unlink()
    again = ensure_server_certificate(tmp_path, hosts=[], now=NOW)
    assert handshake(again.server_file, again.ca_file, "localhost")


def test_another_authority_s_certificate_is_replaced(tmp_path: Path) -> None:
    """
    A certificate that this authority did not sign is not served.
    """
    here = ensure_server_certificate(tmp_path / "here", hosts=[], now=NOW)
    other = ensure_server_certificate(tmp_path / "other", hosts=[], now=NOW)
    here.server_file.write_bytes(other.server_file.read_bytes())
    again = ensure_server_certificate(tmp_path / "here", hosts=[], now=NOW)
    assert again.renewed
    assert handshake(again.server_file, again.ca_file, "localhost")


@pytest.mark.parametrize("damage", [b"", b"garbage"])
def test_a_damaged_authority_stops_the_start(tmp_path: Path, damage: bytes) -> None:
    """
    The authority is pinned by machines: a new one is never made in silence.
    """
    ensure_server_certificate(tmp_path, hosts=[], now=NOW)
    (tmp_path / "authority.pem").write_bytes(damage)
    with pytest.raises(BrokenPKI, match=r"authority\.pem"):
        ensure_server_certificate(tmp_path, hosts=[], now=NOW)


def test_token_key(tmp_path: Path) -> None:
    """
    The key of access tokens is made once, and named by its fingerprint.
    """
    first, second = ensure_token_key(tmp_path), ensure_token_key(tmp_path)
    assert isinstance(first, rsa.RSAPrivateKey)
    assert first.private_numbers() == second.private_numbers()
    assert first.key_size == 2048
    assert key_id(first.public_key()) == key_id(second.public_key())
    (tmp_path / "token-key.pem").write_bytes(b"garbage")
    with pytest.raises(BrokenPKI, match=r"token-key\.pem"):
        ensure_token_key(tmp_path)


def test_two_authorities_differ(tmp_path: Path) -> None:
    """
    Each installation has an authority of its own.
    """
    files = [ensure_server_certificate(tmp_path / name, hosts=[], now=NOW) for name in "ab"]
    keys = {
        certificate(file.ca_file).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for file in files
    }
    assert len(keys) == 2
