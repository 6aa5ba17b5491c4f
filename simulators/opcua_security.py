"""How the simulated OPC UA servers are secured: as the configuration has its devices' ``security``.

Every current policy, signed or encrypted, with the user and password of the configuration. The
certificate is made once per machine and kept, so that an agent that has pinned it finds it again.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncua.server.server import Server
    from asyncua.server.user_managers import UserManager

APPLICATION = "urn:demo:plant:server"
_POLICIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Security:
    """What a server asks of its clients; without it the server is open.

    folder    where the server's certificate and key are made
    user      who may log in; None: anybody, by name or not
    password  None: any password is right
    policy    False: the line is open, only the user is asked for
    """

    folder: Path
    user: str | None
    password: str | None
    policy: bool = True

    @classmethod
    def written(cls, row: Mapping[str, object], folder: Path) -> "Security":
        """Return what a device's ``security`` asks for; a variable not set is any password."""
        user, password = (None if row.get(k) is None else str(row[k]) for k in ("user", "password"))
        if password is not None and (named := _VARIABLE.fullmatch(password)):
            password = os.environ.get(named[1])
        return cls(folder, user, password, str(row.get("policy", "None")) != "None")

    async def apply(self, server: "Server") -> None:
        """Secure a server that has not started."""
        from asyncua import ua

        tokens: list[type] = [ua.AnonymousIdentityToken, ua.X509IdentityToken]
        server.set_identity_tokens([ua.UserNameIdentityToken] if self.user else tokens)
        kind = ua.SecurityPolicyType
        if not self.policy:
            server.set_security_policy([kind.NoSecurity])
            return
        from asyncua.crypto.cert_gen import setup_self_signed_certificate
        from cryptography.x509.oid import ExtendedKeyUsageOID

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key, certificate = self.folder / "key.pem", self.folder / "cert.der"
        usage = [ExtendedKeyUsageOID.SERVER_AUTH]
        names = {"commonName": "demo plant"}
        await setup_self_signed_certificate(
            key, certificate, APPLICATION, "127.0.0.1", usage, names
        )
        key.chmod(0o600)
        await server.load_certificate(str(certificate))
        await server.load_private_key(str(key))
        modes = [f"{name}_{mode}" for name in _POLICIES for mode in ("Sign", "SignAndEncrypt")]
        server.set_security_policy([kind[mode] for mode in modes])

    def users(self) -> "UserManager":
        """Return asyncua's user manager with the one user who may log in."""
        from asyncua.crypto.permission_rules import User, UserRole
        from asyncua.server.user_managers import UserManager

        class OneUser(UserManager):
            def get_user(
                self,
                iserver: object,  # noqa: ARG002 – asyncua's signature
                username: str | None = None,
                password: str | bytes | None = None,
                certificate: object = None,  # noqa: ARG002
            ) -> User | None:
                given = password.decode() if isinstance(password, bytes) else password
                right = security.password is None or given == security.password
                known = security.user is None or (username == security.user and right)
                return User(role=UserRole.User) if known else None

        security = self
        return OneUser()


def kept() -> Path:
    """Return where the simulators keep their certificate on this machine."""
    return Path(tempfile.gettempdir()) / f"edge-agent-simulators-{os.getuid()}"
