"""How an OPC UA server knows the agent: user, certificate, and what the line carries."""

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge_agent.errors import Disconnected
from edge_agent.units import Secret

if TYPE_CHECKING:
    from asyncua.client.client import Client
    from asyncua.crypto.uacrypto import CertProperties

VALID_DAYS = (
    3650  # a certificate made here; a plant outlives the year that is the library's default
)

_MODES = {"sign": "Sign", "sign-and-encrypt": "SignAndEncrypt"}


@dataclass(frozen=True, kw_only=True)
class Security:
    """Who the agent is for a server, and whether the line is signed and encrypted.

    certificate, private_key  files, DER or PEM; made, self-signed, at the first connect if neither
                              exists; the server must be told to trust the certificate
    server_certificate        the one certificate that is accepted; None: the one the server shows
    """

    policy: Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "None"
    mode: Literal["none", "sign", "sign-and-encrypt"] = "none"
    user: str | None = None
    password: Secret | None = None
    certificate: str | None = None
    private_key: str | None = None
    server_certificate: str | None = None

    @property
    def in_clear(self) -> bool:
        """Whether the password may be read on the line; with a policy it is always encrypted."""
        return self.password is not None and self.policy == "None"

    def faults(self) -> list[tuple[str, str]]:
        """Return what does not fit together: (key, message)."""
        found = []
        if self.policy == "None" and self.mode != "none":
            found.append(("policy", f"mode {self.mode} needs a policy (Basic256Sha256)"))
        if self.policy != "None" and self.mode == "none":
            found.append(("mode", f"policy {self.policy} needs a mode (sign-and-encrypt, sign)"))
        if self.policy != "None":
            found += [
                (name, f"policy {self.policy} needs the path of a file (made there if missing)")
                for name in ("certificate", "private_key")
                if getattr(self, name) is None
            ]
        if self.user is None and self.password is not None:
            found.append(("password", "a password needs a user"))
        return found

    async def apply(self, client: "Client") -> None:
        """Prepare a client that is not connected yet; may ask the server for its certificate.

        errors  ``Disconnected`` when one of the two files is missing; the library's own otherwise
        """
        from asyncua import ua
        from asyncua.crypto import security_policies

        if self.user is not None:
            client.set_user(self.user)
            client.set_password("" if self.password is None else self.password.reveal())
        if self.policy == "None" or self.certificate is None or self.private_key is None:
            return
        certificate, key = Path(self.certificate), Path(self.private_key)
        uri = await asyncio.to_thread(_application_uri, certificate, key)
        if uri is not None:
            client.application_uri = uri
        server = self.server_certificate
        await client.set_security(
            getattr(security_policies, f"SecurityPolicy{self.policy}"),
            _content(certificate),
            _content(key),
            server_certificate=None if server is None else _content(Path(server)),
            mode=ua.MessageSecurityMode[_MODES[self.mode]],
        )


def _is_pem(content: bytes) -> bool:
    return content.lstrip().startswith(b"-----BEGIN")


def _content(path: Path) -> "CertProperties":
    """Return a file with its format by what is in it; the library goes by the file's name."""
    from asyncua.crypto.uacrypto import CertProperties

    content = path.read_bytes()
    return CertProperties(content, "pem" if _is_pem(content) else "der")


def _application_uri(certificate: Path, key: Path) -> str | None:
    """Return the URI in the certificate, which the agent must call itself by; make both if missing.

    source  OPC 10000-6, 6.2.2: the ApplicationUri of the session is the one of the certificate
    """
    from cryptography import x509

    if not certificate.exists() and not key.exists():
        _make(certificate, key)
    for path in (certificate, key):
        if not path.is_file():
            raise Disconnected(
                f"{path} is missing (put it there, or remove both to have them made)"
            )
    content = certificate.read_bytes()
    if _is_pem(content):
        parsed = x509.load_pem_x509_certificate(content)
    else:
        parsed = x509.load_der_x509_certificate(content)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None


def _make(certificate: Path, key: Path) -> None:
    """Write a self-signed certificate and its key, which only its owner may read."""
    from asyncua.crypto import cert_gen
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    host = socket.gethostname()
    secret = cert_gen.generate_private_key()
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(f"urn:{host}:edge-agent"),
        x509.DNSName(host),
    ]
    made = cert_gen.generate_self_signed_app_certificate(
        secret, "edge-agent", {}, names, [ExtendedKeyUsageOID.CLIENT_AUTH], VALID_DAYS
    )
    for path in (certificate, key):
        path.parent.mkdir(parents=True, exist_ok=True)
    pem = certificate.suffix.lower() == ".pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM if pem else Encoding.DER))
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(cert_gen.dump_private_key_as_pem(secret))
