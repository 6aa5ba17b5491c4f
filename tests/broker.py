"""A real MQTT broker and a subscriber that collects what it hands out; see ``tests.servers``."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.process import HOST, READY, Server, program, wait_until


@dataclass(frozen=True)
class Certificates:
    """PEM files for TLS on 127.0.0.1, made by ``certificates``."""

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


class Mosquitto(Server):
    """The Eclipse Mosquitto broker.

    users         name -> password; without, everybody may connect
    acl           text of an access control list (``topic write edge/#``); a refused publish is
                  answered 135 to an MQTT 5 client
    certificates  serve TLS with these; ``require_certificate`` asks the client for one as well
    settings      further lines of the configuration (``max_packet_size 2000``)
    """

    name = "mosquitto"

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        require_certificate: bool = False,
        settings: str = "",
    ) -> None:
        super().__init__(folder)
        self.users = dict(users or {})
        self._acl = acl
        self._certificates = certificates
        self._require_certificate = require_certificate
        self._settings = settings

    @property
    def url(self) -> str:
        """The address as a sink's ``url``."""
        return f"mqtt{'s' if self._certificates else ''}://{HOST}:{self.port}"

    def command(self) -> list[str]:
        lines = [
            f"listener {self.port} {HOST}",
            f"allow_anonymous {'false' if self.users else 'true'}",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 1",
            # not 0, which means without limit: 2.0.11 then ends a connection after each refusal
            "max_queued_messages 1000000",
            "log_type all",
            self._settings,
        ]
        if os.geteuid() == 0:
            lines.append("user root")
        if self.users:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(f"{name}:{text}\n" for name, text in self.users.items()))
            subprocess.run([program("mosquitto_passwd"), "-U", passwords], check=True)
            lines.append(f"password_file {passwords}")
        if self._acl is not None:
            (self.folder / "acl").write_text(self._acl + "\n")
            lines.append(f"acl_file {self.folder}/acl")
        if self._certificates is not None:
            lines += [
                f"cafile {self._certificates.ca}",
                f"certfile {self._certificates.certificate}",
                f"keyfile {self._certificates.key}",
                f"require_certificate {str(self._require_certificate).lower()}",
            ]
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return [program("mosquitto"), "-c", str(configuration)]

    def subscriber(
        self, *topics: str, user: str | None = None, identity: str = "subscriber"
    ) -> "Subscriber":
        """Return what collects all messages of the topics (all but the broker's own by default)."""
        password = None if user is None else self.users[user]
        return Subscriber(self, topics or ("#",), user, password, identity)


@dataclass(frozen=True)
class Message:
    """One message as the subscriber got it."""

    topic: str
    payload: bytes
    retained: bool
    duplicate: bool

    @property
    def json(self) -> Any:
        """The payload read as JSON."""
        return json.loads(self.payload)


class Subscriber:
    """An MQTT 5 subscriber with QoS 1 and a session that outlives restarts of either side.

    A thread of its own collects and reconnects. The order is the order of arrival. After a SIGKILL
    of the broker, what it had not saved yet (up to a second) is gone.
    """

    def __init__(
        self,
        broker: Mosquitto,
        topics: tuple[str, ...],
        user: str | None,
        password: str | None,
        identity: str,
    ) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[Message] = []
        self._broker = broker
        self._topics = topics
        self._subscribed = threading.Event()
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=identity, protocol=paho.MQTTv5
        )
        client.reconnect_delay_set(min_delay=0.1, max_delay=0.2)  # type: ignore[arg-type] # works
        if user is not None:
            client.username_pw_set(user, password)
        client.on_connect = lambda c, *_: c.subscribe([(topic, 1) for topic in topics])
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = lambda _c, _u, m: self.messages.append(
            Message(m.topic, bytes(m.payload), m.retain, m.dup)
        )

    def __enter__(self) -> Self:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # not annotated
        session.SessionExpiryInterval = 3600
        self._client.connect(
            HOST, self._broker.port, clean_start=False, properties=session, keepalive=60
        )
        self._client.loop_start()
        assert self._subscribed.wait(READY), "the broker did not accept the subscription"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def connected(self) -> bool:
        """Return whether it hears the broker now."""
        return bool(self._client.is_connected())

    def on(self, topic: str) -> list[Message]:
        """Return the messages of one topic so far, in order."""
        return [message for message in self.messages if message.topic == topic]

    def wait_for(
        self, count: int, topic: str | None = None, seconds: float = 10.0
    ) -> list[Message]:
        """Return all messages (of a topic) when there are at least so many."""

        def seen() -> list[Message]:
            return list(self.messages) if topic is None else self.on(topic)

        wait_until(lambda: len(seen()) >= count, seconds, f"{count} messages of {topic or 'all'}")
        return seen()


def certificates(folder: Path) -> Certificates:
    """Make an authority, a certificate for 127.0.0.1 and one for a client, with openssl."""
    openssl = program("openssl")
    folder.mkdir(parents=True, exist_ok=True)

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=folder)

    def key(name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", f"{name}.key"]  # fmt: skip

    run("req", "-x509", *key("ca"), "-out", "ca.crt", "-days", "30", "-subj", "/CN=test authority")
    (folder / "server.ext").write_text(f"subjectAltName=IP:{HOST}\n")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for name in ("server", "client"):
        run("req", *key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-days", "30",
            "-extfile", f"{name}.ext")  # fmt: skip
    return Certificates(
        folder / "ca.crt",
        folder / "server.crt",
        folder / "server.key",
        folder / "client.crt",
        folder / "client.key",
    )
