"""How the link to a broker is encrypted, and what a person must mend when it cannot be."""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_agent.errors import Disconnected


class _Context(ssl.SSLContext):
    """Shakes hands where a failure closes the socket; paho would leave it to the garbage."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:  # noqa: ANN401
        return super().wrap_socket(sock, *args, **options | {"do_handshake_on_connect": True})


def tls_context(ca: str | None, certificate: str | None, private_key: str | None) -> ssl.SSLContext:
    """Return how the link is encrypted; ``Disconnected`` if a file cannot be used."""
    for name, file in (("ca", ca), ("certificate", certificate), ("private_key", private_key)):
        if file is not None:
            _readable(name, Path(file))
    try:
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca)
    except OSError as e:
        raise Disconnected(f"ca {ca} is no certificate that can be read (PEM): {e}") from e
    if certificate is None:
        return context
    _in_time(certificate)
    asked = []

    def ask() -> str:  # else OpenSSL asks for the password of an encrypted key at the terminal
        asked.append(private_key)
        return ""

    try:
        context.load_cert_chain(certificate, private_key, ask)
    except OSError as e:
        why = "is no key that can be read (PEM)"
        if asked:
            why = "needs a password: store it without one, readable by the agent only"
        elif "KEY_VALUES_MISMATCH" in str(e):
            why = f"is not the key of certificate {certificate}"
        raise Disconnected(f"private_key {private_key} {why}") from e
    return context


def _readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as e:
        raise Disconnected(f"{name} {path} cannot be read: {e.strerror}") from e


def _in_time(path: str) -> None:
    """Raise ``Disconnected`` when this gateway's certificate is not valid now."""
    from cryptography import x509

    try:
        held = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except ValueError as e:
        raise Disconnected(f"certificate {path} is no certificate that can be read (PEM)") from e
    now = datetime.now(UTC)
    if held.not_valid_after_utc < now:
        day = f"{held.not_valid_after_utc:%Y-%m-%d}"
        raise Disconnected(f"certificate {path} ended on {day}: put a new one there")
    if held.not_valid_before_utc > now:
        day = f"{held.not_valid_before_utc:%Y-%m-%d %H:%M}"
        raise Disconnected(
            f"certificate {path} begins on {day} (UTC): is this gateway's clock right?"
        )
