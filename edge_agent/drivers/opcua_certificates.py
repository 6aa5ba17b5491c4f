"""Certificates as files: the agent's own, made and renewed here, and those of the servers.

The agent has one certificate for all servers, because each of them must be told once to trust it.
It carries the application URI of this machine; if the machine is called otherwise one day, or the
certificate ends within a month, a new one is made and the old one is kept beside it. Until a server
trusts the new one, the old one goes on, for as long as it is valid: a renewal stops no plant.

Validity is a matter between this machine and its servers, so it is real time that counts here.
"""

import os
import socket
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import Disconnected

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

NAME = "edge-agent"
VALID = timedelta(days=3650)  # a plant outlives the year that is the library's default
SOON = timedelta(days=30)
_MAKING = threading.Lock()  # links connect at the same time, and share the files


def application_uri() -> str:
    """Return what the agent calls itself on this machine (OPC 10000-6, 6.2.2)."""
    return f"urn:{socket.gethostname()}:{NAME}"


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, ready to be shown.

    uri       what the agent must call itself with it; None if it does not say
    notes     what a person should know
    previous  the one before, while it is still valid
    """

    certificate: bytes
    key: bytes
    uri: str | None
    notes: tuple[str, ...] = ()
    previous: "Identity | None" = None


def is_pem(content: bytes) -> bool:
    """Return whether a file's content is PEM; else it is DER."""
    return content.lstrip().startswith(b"-----BEGIN")


def parse(content: bytes) -> "x509.Certificate":
    """Return the certificate in a file's content, DER or PEM. Raises ``ValueError``."""
    from cryptography import x509

    load = x509.load_pem_x509_certificate if is_pem(content) else x509.load_der_x509_certificate
    return load(content)


def private_key(content: bytes, path: Path) -> "rsa.RSAPrivateKey":
    """Return the RSA key in a file's content, DER or PEM. Raises ``Disconnected``."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = is_pem(content)
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError) as e:  # it is none, or it needs a password
        raise Disconnected(f"{path} is no private key that can be read: {e}") from e
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Disconnected(f"{path} is no RSA key, which these policies need")
    return key


def thumbprint(content: bytes) -> str:
    """Return ``sha256:`` and 64 hexadecimal digits: the SHA-256 of the certificate's DER."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return f"sha256:{parse(content).fingerprint(SHA256()).hex()}"


def read(path: Path) -> bytes:
    """Return a file's content. Raises ``Disconnected`` in plain words."""
    try:
        return path.read_bytes()
    except OSError as e:
        raise Disconnected(f"{path} cannot be read: {e.strerror}") from e


def identity(certificate: Path, key: Path, now: datetime | None = None) -> Identity:
    """Return what the files hold; made if neither exists, renewed if it is of our making.

    errors  ``Disconnected`` when one of two is missing or cannot be read
    """
    now = now or datetime.now(UTC)
    with _MAKING:
        notes = _renewed(certificate, key, now)
        try:
            found = _loaded(certificate, key, notes)
            old = _aside(certificate), _aside(key)
            if not all(path.is_file() for path in old):
                return found
            before = _loaded(*old, ())
            valid = parse(before.certificate).not_valid_after_utc > now
        except ValueError as e:
            raise Disconnected(f"{certificate} is no certificate (DER or PEM): {e}") from e
    return Identity(found.certificate, found.key, found.uri, notes, before if valid else None)


def _loaded(certificate: Path, key: Path, notes: tuple[str, ...]) -> Identity:
    content = read(certificate)
    return Identity(content, read(key), uri_of(parse(content)), notes)


def uri_of(certificate: "x509.Certificate") -> str | None:
    """Return the application URI in a certificate."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None


def _renewed(certificate: Path, key: Path, now: datetime) -> tuple[str, ...]:
    """Make the files where it is time to; return what was done, or should be."""
    if not certificate.exists() and not key.exists():
        _make(certificate, key, now)
        shown = thumbprint(read(certificate))
        return (f"{certificate} is new: tell the server to trust it ({shown})",)
    for path in (certificate, key):
        if not path.is_file():
            raise Disconnected(
                f"{path} is missing (put it there, or remove both to have them made)"
            )
    try:
        held = parse(read(certificate))
    except ValueError as e:
        raise Disconnected(f"{certificate} is no certificate (DER or PEM): {e}") from e
    ends, day = held.not_valid_after_utc, f"{held.not_valid_after_utc:%Y-%m-%d}"
    if ends - now > SOON and (uri_of(held) == application_uri() or not _ours(held)):
        return ()
    if not _ours(held):
        return (f"{certificate} ends on {day}: put a new one there",)
    why = f"ended on {day}" if ends <= now else f"ends on {day}"
    if uri_of(held) != application_uri():
        why = f"was made for {uri_of(held)}"
    for path in (certificate, key):
        path.replace(_aside(path))
    _make(certificate, key, now)
    shown = thumbprint(read(certificate))
    old = _aside(certificate)
    return (f"{old} {why}: {certificate} is new, tell the server to trust it ({shown})",)


def _aside(path: Path) -> Path:
    """Return where the file before this one is kept."""
    return path.with_name(f"{path.stem}.old{path.suffix}")


def _ours(certificate: "x509.Certificate") -> bool:
    """Return whether a certificate was made here."""
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return certificate.issuer == certificate.subject and [n.value for n in names] == [NAME]


def _make(certificate: Path, key: Path, now: datetime) -> None:
    """Write a self-signed certificate and its key, which only its owner may read.

    source  OPC 10000-6, 6.2.2: what an application instance certificate must hold
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    secret = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    names = [x509.UniformResourceIdentifier(application_uri()), x509.DNSName(socket.gethostname())]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    public = x509.SubjectKeyIdentifier.from_public_key(secret.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(public)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # the server's clock may be behind ours
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(public, critical=False)
        .add_extension(issuer, critical=False)
        .sign(secret, hashes.SHA256())
    )
    pem = certificate.suffix.lower() == ".pem"
    form = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    written = secret.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        for path in (certificate, key):
            path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(written)
        certificate.write_bytes(made.public_bytes(form))
    except OSError as e:
        raise Disconnected(f"{e.filename} cannot be written: {e.strerror}") from e


def _usage() -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,  # a self-signed one signs itself
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
