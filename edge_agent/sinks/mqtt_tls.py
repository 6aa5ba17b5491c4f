"""How the link to a broker is encrypted, and what a person must mend when it cannot be."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.errors import Disconnected

_LOCKED = "private_key needs a password: store it without one, readable by the agent only"
_KEY = {  # what OpenSSL says of certificate and key, and what it comes from
    "KEY_VALUES_MISMATCH": "private_key is not the key of certificate",
    "BAD_DECRYPT": _LOCKED,
    "BAD_PASSWORD_READ": _LOCKED,
}


def tls_context(ca: str | None, certificate: str | None, private_key: str | None) -> ssl.SSLContext:
    """Return how the link is encrypted; ``Disconnected`` if a file cannot be used."""
    for name, file in (("ca", ca), ("certificate", certificate), ("private_key", private_key)):
        if file is not None:
            _readable(name, Path(file))
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as e:
        raise Disconnected(f"ca {ca} is no certificate that can be read (PEM): {e}") from e
    if certificate is None:
        return context
    _in_time(certificate)
    try:
        # a password: OpenSSL would ask for that of an encrypted key at the terminal
        context.load_cert_chain(certificate, private_key, password="")
    except OSError as e:
        why = next((meant for sign, meant in _KEY.items() if sign in str(e)), str(e))
        raise Disconnected(f"certificate {certificate} and {private_key}: {why}") from e
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
