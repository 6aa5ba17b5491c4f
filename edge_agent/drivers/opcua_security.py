"""How an OPC UA server knows the agent, and the agent the server.

The server's certificate is compared before anything secret is said to it: with the one that the
configuration names (a file or a thumbprint), with a folder of trusted ones, or, where the
configuration names neither, with the one it showed first. Another one is refused, with its
thumbprint, so that a person can compare it with what the server says of itself.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge_agent.drivers.opcua_certificates import (
    Identity,
    identity,
    is_pem,
    parse,
    private_key,
    read,
    thumbprint,
)
from edge_agent.errors import Disconnected
from edge_agent.units import Secret

if TYPE_CHECKING:
    from asyncua.client.client import Client
    from asyncua.crypto.uacrypto import CertProperties

FOLDER = "certificates"  # below the configuration's data folder
_MODES = {"sign": "Sign", "sign-and-encrypt": "SignAndEncrypt"}
_THUMBPRINT = re.compile(r"(?:sha256:)?((?:[0-9a-f]{2}[: ]?){32})", re.IGNORECASE)
_SUFFIXES = {".der", ".cer", ".crt", ".pem"}

Policy = Literal[
    "None", "Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss",
    "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Security:
    """Who the agent is for a server, and whether the line is signed and encrypted.

    mode                      without it, sign-and-encrypt where there is a policy
    certificate, private_key  files, DER or PEM; made, self-signed, at the first connect if neither
                              exists; the server must be told to trust the certificate
    user_certificate, user_private_key  who logs in; comes before user and password
    server_certificate        a file or ``sha256:…``: the one certificate that is accepted
    trust                     a folder of certificates that are accepted, and of authorities;
                              server_certificate comes before it
                              Relative paths are below the configuration's data folder
    """

    policy: Policy = "None"
    mode: Literal["none", "sign", "sign-and-encrypt"] | None = None
    user: str | None = None
    password: Secret | None = None
    certificate: str | None = None
    private_key: str | None = None
    user_certificate: str | None = None
    user_private_key: str | None = None
    server_certificate: str | None = None
    trust: str | None = None

    @property
    def secured(self) -> bool:
        """Whether there is a policy."""
        return self.policy != "None"

    @property
    def wanted(self) -> str:
        """The endpoint that is asked for, in words."""
        return f"policy {self.policy} and mode {self.mode or 'sign-and-encrypt'}"

    @property
    def in_clear(self) -> bool:
        """Whether the password may be read on the line; with a policy it is always encrypted."""
        return self.password is not None and not self.secured

    def faults(self) -> list[tuple[str, str]]:
        """Return what does not fit together: (key, message)."""
        found = []
        if not self.secured and self.mode in _MODES:
            found.append(("policy", f"mode {self.mode} needs a policy (Basic256Sha256)"))
        if self.secured and self.mode == "none":
            found.append(("mode", f"policy {self.policy} needs a mode (sign-and-encrypt, sign)"))
        for one, other in (
            ("certificate", "private_key"),
            ("private_key", "certificate"),
            ("user_certificate", "user_private_key"),
            ("user_private_key", "user_certificate"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is None:
                found.append((one, f"write {other} beside it"))
        if self.user is None and self.password is not None:
            found.append(("password", "a password needs a user"))
        if not self.secured:
            found += [
                (key, "without a policy the server shows no certificate (write a policy)")
                for key in ("server_certificate", "trust")
                if getattr(self, key) is not None
            ]
        return found

    def files(self, data: Path) -> tuple[Path, Path]:
        """Return where the agent's certificate and key are."""
        own = data / FOLDER
        return (
            data / self.certificate if self.certificate else own / "opcua.der",
            data / self.private_key if self.private_key else own / "opcua.key",
        )

    def accept(self, shown: bytes, data: Path, before: str | None) -> str:
        """Return the thumbprint of the server's certificate, if it is trusted.

        shown   the certificate, DER
        before  the thumbprint of the one that was accepted last
        errors  ``Disconnected`` with both thumbprints
        """
        print_ = thumbprint(shown)
        if self.server_certificate is not None:
            pinned = _named(self.server_certificate, data)
            if print_ != pinned:
                raise Disconnected(
                    f"the server shows another certificate ({print_}) than the one that is pinned "
                    f"({pinned}): compare it at the server, then write it in server_certificate"
                )
        elif self.trust is not None:
            folder = data / self.trust
            if not any(_vouches(path, shown) for path in _certificates(folder)):
                kept = data / FOLDER / "rejected" / f"{print_[7:23]}.der"
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(shown)
                raise Disconnected(
                    f"the server's certificate ({print_}) is not in {folder}: compare it at the "
                    f"server, then move {kept} there"
                )
        elif before is not None and print_ != before:
            raise Disconnected(
                f"the server shows another certificate ({print_}) than before ({before}): compare "
                f'it at the server, then write server_certificate: "{print_}"'
            )
        return print_

    async def apply(
        self, client: "Client", data: Path, before: str | None, *, previous: bool = False
    ) -> tuple[str | None, tuple[str, ...]]:
        """Prepare a client that is not connected yet.

        returns   the server's thumbprint, to be kept once it is connected, and what a person
                  should know of the agent's certificate

        data      the folder that relative paths are below
        before    the thumbprint that was returned last
        previous  show the agent's certificate before the present one, if that is still valid
        errors    ``Disconnected`` when a file is missing or the server is not trusted
        """
        if self.user is not None:
            client.set_user(self.user)
            client.set_password("" if self.password is None else self.password.reveal())
        if self.user_certificate is not None and self.user_private_key is not None:
            files = data / self.user_certificate, data / self.user_private_key
            certificate, key = [await asyncio.to_thread(read, path) for path in files]
            client.user_certificate = parse(certificate)
            client.user_private_key = private_key(key, files[1])
        if not self.secured:
            return before, ()
        own = await asyncio.to_thread(identity, *self.files(data))
        notes = own.notes
        if previous and own.previous is not None:
            own = own.previous
        private_key(own.key, self.files(data)[1])
        return await self._secure(client, own, data, before), notes

    async def _secure(self, client: "Client", own: Identity, data: Path, before: str | None) -> str:
        """Ask the server for its certificate, over a channel that is open, and look at it."""
        from asyncua import ua
        from asyncua.crypto import security_policies

        policy = getattr(security_policies, f"SecurityPolicy{self.policy.replace('_', '')}")
        mode = ua.MessageSecurityMode[_MODES[self.mode or "sign-and-encrypt"]]
        endpoints = await client.connect_and_get_server_endpoints()
        shown = _first(client.find_endpoint(endpoints, mode, policy.URI).ServerCertificate or b"")
        accepted = await asyncio.to_thread(self.accept, shown, data, before)
        if own.uri is not None:
            client.application_uri = own.uri
        await client.set_security(
            policy,
            _properties(own.certificate),
            _properties(own.key),
            server_certificate=_properties(shown),
            mode=mode,
        )
        return accepted


def _properties(content: bytes) -> "CertProperties":
    """Return a file's content with its format; the library goes by the file's name."""
    from asyncua.crypto.uacrypto import CertProperties

    return CertProperties(content, "pem" if is_pem(content) else "der")


def _first(chain: bytes) -> bytes:
    """Return the first certificate of a chain, DER."""
    if chain[:2] != b"\x30\x82":
        raise Disconnected("the server shows no certificate")
    return chain[: int.from_bytes(chain[2:4], "big") + 4]


def _named(text: str, data: Path) -> str:
    """Return the thumbprint that a configuration names, itself or by a file."""
    match = _THUMBPRINT.fullmatch(text.strip())
    if match is not None:
        return f"sha256:{re.sub('[: ]', '', match[1]).lower()}"
    try:
        return thumbprint(read(data / text))
    except ValueError as e:
        raise Disconnected(f"{data / text} is no certificate (DER or PEM)") from e


def _certificates(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (p for p in sorted(folder.iterdir()) if p.suffix.lower() in _SUFFIXES)


def _vouches(path: Path, shown: bytes) -> bool:
    """Return whether a trusted file is a certificate, or the authority that has signed it."""
    from cryptography.exceptions import InvalidSignature

    try:
        trusted, certificate = parse(read(path)), parse(shown)
    except (ValueError, Disconnected):
        return False
    if trusted == certificate:
        return True
    try:
        certificate.verify_directly_issued_by(trusted)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
