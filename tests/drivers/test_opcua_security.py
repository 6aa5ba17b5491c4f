"""Policies, certificates and log-ins against a real server that offers all of them."""

import socket
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.crypto import uacrypto
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.user_managers import UserManager
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_agent.clock import SystemClock
from edge_agent.config import load
from edge_agent.drivers import opcua_certificates
from edge_agent.drivers.base import KeepsFiles, Learns, TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.opcua_certificates import SOON, VALID, identity, parse, thumbprint
from edge_agent.drivers.opcua_driver import OpcUaDriver
from edge_agent.drivers.opcua_security import Policy, Security
from edge_agent.errors import Disconnected
from edge_agent.units import Secret
from tests.drivers.opcua_plant import URI, DeafGate, Plant

pytestmark = pytest.mark.asyncio(loop_scope="module")
S = ua.SecurityPolicyType


class Users(UserManager):
    """The user ``edge`` by password; anybody, unless there is a certificate to be shown."""

    def __init__(self) -> None:
        self.certificate = b""

    def get_user(
        self,
        _server: object,
        username: str | None = None,
        password: str | bytes | None = None,
        certificate: bytes | None = None,
    ) -> User | None:
        if username is None:
            known = self.certificate in {b"", certificate}
        else:
            said = password.decode() if isinstance(password, bytes) else password
            known = (username, said) == ("edge", "right")
        return User(role=UserRole.User, name=username) if known else None


async def certificate(p: Plant, folder: Path, name: str) -> Path:
    """Give the server a certificate of its own."""
    key, made = folder / f"{name}.pem", folder / f"{name}.der"
    use = [ExtendedKeyUsageOID.SERVER_AUTH]
    await setup_self_signed_certificate(
        key, made, p.server.get_application_uri(), "localhost", use, {}
    )
    await p.server.load_certificate(made)
    await p.server.load_private_key(key)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fortress(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    users = Users()
    p = Plant(users)
    p.folder, p.users = tmp_path_factory.mktemp("server"), users  # type: ignore[attr-defined]
    await p.prepare()
    await certificate(p, p.folder, "server")  # type: ignore[attr-defined]
    names = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
    secured = [S[f"{name}_{mode}"] for name in names for mode in ("Sign", "SignAndEncrypt")]
    p.server.set_security_policy([S.NoSecurity, *secured])
    tokens = [ua.AnonymousIdentityToken, ua.UserNameIdentityToken, ua.X509IdentityToken]
    p.server.set_identity_tokens(tokens)
    await p.add("X", 6.0)
    await p.server.start()
    yield p
    await p.server.stop()


def driver_of(p: Plant, data: Path, **security: object) -> OpcUaDriver:
    security = {"policy": "Basic256Sha256"} | security
    written = Security(**security)  # type: ignore[arg-type]
    assert not written.faults()
    at = f"nsu={URI};s=X"
    tags = {"x": TagConfig(at=at), "p": TagConfig(at=at, mode="subscribe")}
    device = OpcUaDevice(connect=p.url, security=written, tags=tags)
    driver = OpcUaDevice.build({"plc": device}, SystemClock())
    assert isinstance(driver, OpcUaDriver)
    driver.keep_in(data)
    return driver


async def reads(driver: OpcUaDriver) -> None:
    """Connect, read by both ways and close."""
    try:
        await driver.connect()
        for group, name in zip(driver.groups, "xp", strict=True):
            block = await driver.read(group)
            assert block[name].tolist() == [6.0]
            assert not block.quality.any()
    finally:
        await driver.close()


async def refusal(driver: OpcUaDriver) -> str:
    """Return why the driver does not connect."""
    with pytest.raises(Disconnected) as raised:
        await driver.connect()
    await driver.close()
    return str(raised.value)


@pytest.mark.parametrize("mode", ["sign", "sign-and-encrypt"])
@pytest.mark.parametrize(
    "policy",
    [
        *("Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss"),
        *("Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"),
    ],
)
async def test_every_current_policy_works_with_the_agents_own_certificate(
    fortress: Plant, tmp_path: Path, policy: Policy, mode: str
) -> None:
    await reads(driver_of(fortress, tmp_path, policy=policy, mode=mode))
    key = tmp_path / "certificates" / "opcua.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


async def test_no_policy_needs_no_certificate(fortress: Plant, tmp_path: Path) -> None:
    await reads(driver_of(fortress, tmp_path, policy="None"))
    assert not (tmp_path / "certificates").exists()


@pytest.mark.parametrize("policy", ["None", "Basic256Sha256", "Aes256_Sha256_RsaPss"])
async def test_a_user_logs_in_by_password(fortress: Plant, tmp_path: Path, policy: str) -> None:
    await reads(driver_of(fortress, tmp_path, policy=policy, user="edge", password=Secret("right")))
    wrong = driver_of(fortress, tmp_path, policy=policy, user="edge", password=Secret("left"))
    said = await refusal(wrong)
    assert "refuses the user or the password" in said
    assert "left" not in said


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128_Sha256_RsaOaep"])
async def test_a_user_logs_in_by_certificate(fortress: Plant, tmp_path: Path, policy: str) -> None:
    known = identity(tmp_path / "user.der", tmp_path / "user.pem")
    identity(tmp_path / "other.der", tmp_path / "other.pem")
    fortress.users.certificate = known.certificate  # type: ignore[attr-defined]
    for name, welcome in (("user", True), ("other", False)):
        driver = driver_of(
            fortress,
            tmp_path,
            policy=policy,
            user_certificate=f"{name}.der",
            user_private_key=f"{name}.pem",
        )
        if welcome:
            await reads(driver)
        else:
            assert "refuses the user" in await refusal(driver)
    fortress.users.certificate = b""  # type: ignore[attr-defined]


async def test_a_configuration_without_paths_keeps_its_certificate_below_data(
    fortress: Plant, tmp_path: Path
) -> None:
    """L9, peers 57: made once and kept; a new one at each start must be trusted anew each time."""
    path = tmp_path / "plant.yaml"
    path.write_text(
        f"""
site: {{id: test}}
data: kept
devices:
  plc:
    connect: {fortress.url}
    security: {{policy: Basic256Sha256}}
    tags: {{x: {{at: "nsu={URI};s=X"}}}}
web: {{listen: "127.0.0.1:0"}}
""",
        encoding="utf-8",
    )
    from edge_agent.agent import links_of

    shown = []
    for _ in range(2):
        (link,) = links_of(load(path), SystemClock())
        assert isinstance(link.driver, KeepsFiles)
        await link.driver.connect()
        await link.driver.read(link.driver.groups[0])
        await link.driver.close()
        shown.append((tmp_path / "kept" / "certificates" / "opcua.der").read_bytes())
    assert shown[0] == shown[1]


async def test_the_certificate_holds_what_servers_insist_on(tmp_path: Path) -> None:
    """L9, peers 56: the application URI, both usages, and no claim to be an authority."""
    made = parse(identity(tmp_path / "a.der", tmp_path / "a.key").certificate)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = f"urn:{socket.gethostname()}:edge-agent"
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert names.get_values_for_type(x509.DNSName) == [socket.gethostname()]
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.content_commitment
    assert usage.key_encipherment
    assert usage.data_encipherment
    extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in extended
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("kind", ["locked", "elliptic", "nonsense"])
async def test_a_key_that_is_of_no_use_is_told_in_plain_words(
    fortress: Plant, tmp_path: Path, kind: str
) -> None:
    own = identity(tmp_path / "own.der", tmp_path / "own.pem")
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    key = opcua_certificates.private_key(own.key, tmp_path)
    lock: serialization.KeySerializationEncryption = serialization.BestAvailableEncryption(b"x")
    if kind == "elliptic":
        key, lock = ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    written = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    (tmp_path / "own.pem").write_bytes(b"no key" if kind == "nonsense" else written)
    driver = driver_of(fortress, tmp_path, certificate="own.der", private_key="own.pem")
    assert str(tmp_path / "own.pem") in await refusal(driver)


async def test_what_is_to_be_known_of_a_certificate_is_said_once(
    fortress: Plant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, made = tmp_path / "own.pem", tmp_path / "own.der"
    uri, use = "urn:own", [ExtendedKeyUsageOID.CLIENT_AUTH]
    await setup_self_signed_certificate(key, made, uri, "own", use, {})
    driver = driver_of(fortress, tmp_path, certificate="own.der", private_key="own.pem")
    opcua_certificates.SOON, soon = timedelta(days=400), opcua_certificates.SOON
    try:
        for _ in range(3):
            await driver.connect()
            await driver.close()
    finally:
        opcua_certificates.SOON = soon
    said = [r.getMessage() for r in caplog.records if "put a new one there" in r.getMessage()]
    assert len(said) == 1


async def test_a_certificate_is_not_pinned_before_the_server_has_proved_it(
    fortress: Plant, tmp_path: Path
) -> None:
    driver = driver_of(fortress, tmp_path, user="edge", password=Secret("wrong"))
    await refusal(driver)
    assert driver.save()["certificate"] is None
    await reads(right := driver_of(fortress, tmp_path))
    assert right.save()["certificate"] is not None


# ---- renewal


async def test_a_certificate_is_renewed_a_month_before_it_ends_and_the_old_one_is_kept(
    tmp_path: Path,
) -> None:
    files = tmp_path / "a.der", tmp_path / "a.key"
    first = identity(*files)
    end = datetime.now(UTC) + VALID
    calm = identity(*files, now=end - SOON - timedelta(days=2))
    assert (calm.certificate, calm.notes, calm.previous) == (first.certificate, (), None)
    renewed = identity(*files, now=end - SOON + timedelta(days=2))
    assert renewed.certificate != first.certificate
    assert renewed.key != first.key
    assert f"ends on {end:%Y-%m-%d}" in renewed.notes[0]
    assert thumbprint(renewed.certificate) in renewed.notes[0]
    assert (tmp_path / "a.old.der").read_bytes() == first.certificate
    assert renewed.previous is not None
    assert renewed.previous.key == first.key
    assert identity(*files, now=end + timedelta(days=1)).previous is None  # it has ended


async def test_another_host_name_makes_a_new_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L9, peers 56: a server refuses an application URI that is not the certificate's."""
    files = tmp_path / "a.der", tmp_path / "a.key"
    identity(*files)
    monkeypatch.setattr(socket, "gethostname", lambda: "box-7")
    renewed = identity(*files)
    assert renewed.uri == "urn:box-7:edge-agent"
    assert "was made for urn:" in renewed.notes[0]


async def test_a_persons_certificate_is_never_replaced_but_its_end_is_warned_of(
    tmp_path: Path,
) -> None:
    key, made = tmp_path / "own.pem", tmp_path / "own.der"
    await setup_self_signed_certificate(
        key, made, "urn:own", "own", [ExtendedKeyUsageOID.CLIENT_AUTH], {}
    )
    content = made.read_bytes()
    assert identity(made, key).notes == ()
    late = identity(made, key, now=datetime.now(UTC) + timedelta(days=340))
    assert "put a new one there" in late.notes[0]
    assert late.uri == "urn:own"
    assert made.read_bytes() == content


async def test_the_old_certificate_goes_on_until_the_server_trusts_the_new_one(
    fortress: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reads(driver_of(fortress, tmp_path))
    trusted = (tmp_path / "certificates" / "opcua.der").read_bytes()
    seen = []

    async def validate(shown: x509.Certificate, _description: object) -> None:
        from asyncua.common.utils import ServiceError

        seen.append(uacrypto.der_from_x509(shown) == trusted)
        if not seen[-1]:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    fortress.server.set_certificate_validator(validate)
    monkeypatch.setattr(opcua_certificates, "SOON", VALID + timedelta(days=1))
    driver = driver_of(fortress, tmp_path)
    try:
        assert "does not trust the agent's certificate" in await refusal(driver)
        monkeypatch.undo()
        await reads(driver)
        await reads(driver)
    finally:
        fortress.server.iserver.certificate_validator = None
    assert seen[0] is False
    assert seen[1] is True
    assert all(seen[1:])


async def test_a_server_that_only_closes_the_connection_is_told_what_it_may_be(
    fortress: Plant, tmp_path: Path
) -> None:
    gate = await DeafGate.opened(fortress)
    gate.closes_after = 1  # the endpoints are told, the secured channel is not opened
    url, fortress.url = fortress.url, gate.url
    try:
        said = await refusal(driver_of(fortress, tmp_path))
    finally:
        fortress.url = url
        await gate.close()
    assert "perhaps it does not trust the agent's certificate" in said


# ---- trust


async def test_the_first_certificate_is_pinned_over_a_restart_and_another_one_is_refused(
    tmp_path: Path,
) -> None:
    p = Plant()
    await p.prepare()
    old = await certificate(p, tmp_path, "old")
    p.server.set_security_policy([S.Basic256Sha256_SignAndEncrypt])
    await p.add("X", 6.0)
    await p.server.start()
    try:
        driver = driver_of(p, tmp_path)
        await reads(driver)
        assert isinstance(driver, Learns)
        learnt = driver.save()
    finally:
        await p.server.stop()
    other = Plant()
    other.url = p.url
    await other.prepare()
    new = await certificate(other, tmp_path, "new")
    other.server.set_security_policy([S.Basic256Sha256_SignAndEncrypt])
    await other.add("X", 6.0)
    await other.server.start()
    try:
        again = driver_of(other, tmp_path)
        again.load(learnt)
        said = await refusal(again)
        for path in (old, new):
            assert thumbprint(path.read_bytes()) in said
        compared = driver_of(
            other, tmp_path, server_certificate=thumbprint(new.read_bytes()).upper()
        )
        compared.load(learnt)
        await reads(compared)
        unpinned = driver_of(other, tmp_path)
        unpinned.load(compared.save())
        await reads(unpinned)
    finally:
        await other.server.stop()


async def test_a_pinned_certificate_is_the_only_one_that_is_accepted(
    fortress: Plant, tmp_path: Path
) -> None:
    shown = fortress.folder / "server.der"  # type: ignore[attr-defined]
    (tmp_path / "plc.der").write_bytes(shown.read_bytes())
    other = identity(tmp_path / "other.pem", tmp_path / "other.key").certificate
    await reads(driver_of(fortress, tmp_path, server_certificate="plc.der"))
    await reads(driver_of(fortress, tmp_path, server_certificate=thumbprint(shown.read_bytes())))
    said = await refusal(driver_of(fortress, tmp_path, server_certificate="other.pem"))
    assert thumbprint(shown.read_bytes()) in said
    assert thumbprint(other) in said


async def test_a_folder_of_trusted_certificates_decides(fortress: Plant, tmp_path: Path) -> None:
    """L9, peers 56: a refused certificate lies ready to be moved once a person has compared it."""
    trusted = tmp_path / "certificates" / "trusted"
    driver = driver_of(fortress, tmp_path, trust="certificates/trusted")
    said = await refusal(driver)
    (rejected,) = (tmp_path / "certificates" / "rejected").iterdir()
    assert thumbprint(rejected.read_bytes()) in said
    assert str(rejected) in said
    trusted.mkdir()
    rejected.rename(trusted / rejected.name)
    await reads(driver)


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ({"mode": "sign"}, "policy"),
        ({"policy": "Basic256Sha256", "mode": "none"}, "mode"),
        ({"policy": "Basic256Sha256", "certificate": "a.der"}, "certificate"),
        ({"policy": "Basic256Sha256", "private_key": "a.pem"}, "private_key"),
        ({"user_certificate": "a.der"}, "user_certificate"),
        ({"password": Secret("x")}, "password"),
        ({"server_certificate": "a"}, "server_certificate"),
        ({"trust": "a"}, "trust"),
    ],
)
async def test_what_does_not_fit_together_is_named(written: dict[str, object], key: str) -> None:
    assert [k for k, _ in Security(**written).faults()] == [key]  # type: ignore[arg-type]
