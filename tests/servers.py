"""Real servers on free loopback ports for tests: mosquitto, InfluxDB behind nginx, VictoriaMetrics.

Each is a context manager with plain synchronous methods that return when it is done (a start within
``READY`` seconds), so an asynchronous test calls them directly or through ``asyncio.to_thread``::

    with Mosquitto(tmp_path) as broker:          # also the fixtures mosquitto, influx,
        with broker.subscriber() as seen:        # victoria_metrics of conftest.py
            ...                                  # broker.url, broker.port
            seen.wait_for(3)                     # seen.messages: topic, payload, json, retained
        broker.stop()                            # orderly; kill() is SIGKILL
        broker.start()                           # the same port and, unless killed, the same data
        broker.pause(); broker.resume()          # SIGSTOP: it accepts and never answers

    with Influx(tmp_path) as influx:             # influx.url .org .bucket .token
        influx.query('select * from "sample"')   # rows as dicts, time in ns
    with VictoriaMetrics(tmp_path) as store:     # store.url
        store.series("sample_active_power")      # [(labels, [(ms, value)])]

Configuration, data and logs stand in the folder given. They run as root and as any other user.
Their ports lie below those that the system gives to clients, so that a restart finds its own free.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

READY = 15.0  # seconds in which a server must answer
STOP = 10.0  # seconds in which it must end before it is killed
HOST = "127.0.0.1"


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    for _ in range(100):
        port = random.SystemRandom().randrange(15000, 31000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("there is no free port between 15000 and 31000")


def program(name: str) -> str:
    """Return the path of a program, also of one that only root has on the search path."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} is not installed (run .ci/system-packages)")
    return found


def wait_until(claim: Callable[[], bool], seconds: float, what: str) -> None:
    """Return when the claim is true; ``AssertionError`` when it is not within the time."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} not within {seconds:g} s")
        time.sleep(0.01)


def answers(port: int) -> bool:
    """Return whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def listens(pid: int, port: int) -> bool:
    """Return whether it is this process that listens on a loopback port."""
    wanted = f"{int.from_bytes(socket.inet_aton(HOST), 'little'):08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]" for line in lines if line[1] == wanted and line[3] == "0A"}
    if not sockets:
        return False
    try:
        return any(str(fd.readlink()) in sockets for fd in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # it has just closed one of them, or ended
        return False


class Server:
    """A process that listens on one loopback port."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"{self.name}-{random.SystemRandom().randrange(16**6):06x}"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self.log = self.folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._was_up = False

    def command(self) -> list[str]:
        """Write the configuration for ``self.port`` and return the command that uses it."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process; there must be one."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it accepts connections."""
        assert self._process is None, f"{self.name} runs already"
        for attempt in range(5):
            with self.log.open("ab") as log:
                self._process = process = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                )
            self._wait(process)
            if process.poll() is None:
                self._was_up = True
                return
            self._process = None
            if not self._was_up:  # somebody took the port since we looked
                self.port = free_port()
            time.sleep(0.1 * attempt)
        raise RuntimeError(f"{self.name} does not start:\n{self.log.read_text()[-2000:]}")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Return when the process listens or has ended."""

        def ready() -> bool:
            return process.poll() is not None or listens(process.pid, self.port)

        try:
            wait_until(ready, READY, f"{self.name} is up")
        except AssertionError:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in order; any number of times."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL: nothing is saved any more."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: the kernel still accepts connections, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a paused process does not see SIGTERM
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


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


class _Engine(Server):
    """influxd 1.x."""

    name = "influxd"

    def command(self) -> list[str]:
        configuration = self.folder / "influxdb.conf"
        configuration.write_text(
            f"""
reporting-disabled = true
bind-address = "{HOST}:{free_port()}"
[meta]
  dir = "{self.folder}/meta"
[data]
  dir = "{self.folder}/data"
  wal-dir = "{self.folder}/wal"
  query-log-enabled = false
[http]
  bind-address = "{HOST}:{self.port}"
  log-enabled = false
[monitor]
  store-enabled = false
[continuous_queries]
  enabled = false
"""
        )
        return [program("influxd"), "-config", str(configuration)]


class _Front(Server):
    """nginx that speaks the write call of InfluxDB 2 to the engine behind it."""

    name = "nginx"

    def __init__(self, folder: Path, engine: _Engine, token: str, largest: str) -> None:
        super().__init__(folder)
        self._engine, self._token, self._largest = engine, token, largest

    def command(self) -> list[str]:
        folder = self.folder
        scratch = " ".join(
            f"{module}_temp_path {folder}/{module};"
            for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        engine = f"http://{HOST}:{self._engine.port}"
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 128; }}
http {{
  access_log {folder}/access.log; {scratch}
  client_max_body_size {self._largest};
  map $arg_precision $precision {{ default n; us u; ms ms; s s; }}
  map $http_authorization $allowed {{ default 0; "Token {self._token}" 1; }}
  server {{
    listen {HOST}:{self.port};
    default_type application/json;
    location = /health {{ return 200 '{{"name":"influxdb","status":"pass"}}'; }}
    location = /ping {{ proxy_pass {engine}/ping; }}
    location = /api/v2/write {{
      if ($allowed = 0) {{
        return 401 '{{"code":"unauthorized","message":"unauthorized access"}}';
      }}
      proxy_pass {engine}/write?db=$arg_bucket&precision=$precision;
    }}
  }}
}}
"""
        )
        return [program("nginx"), "-e", str(folder / "error.log"), "-p", str(folder), "-c",
                str(configuration)]  # fmt: skip


class Influx:
    """A real InfluxDB engine (1.x) behind the write call of InfluxDB 2, with one bucket.

    largest  the size of a request above which the answer is 413
    """

    org = "plant"
    bucket = "energy"
    token = "test-token"

    def __init__(self, folder: Path, *, largest: str = "32m") -> None:
        self._engine = _Engine(folder)
        self._front = _Front(folder, self._engine, self.token, largest)

    @property
    def url(self) -> str:
        """The address as a sink's ``url``."""
        return f"http://{HOST}:{self._front.port}"

    @property
    def port(self) -> int:
        """The port of ``url``."""
        return self._front.port

    def start(self) -> None:
        """Start both; the data of before is there."""
        self._engine.start()
        self.query(f'CREATE DATABASE "{self.bucket}"')
        self._front.start()

    def stop(self) -> None:
        """End both in order: connections are refused."""
        self._front.stop()
        self._engine.stop()

    def kill(self) -> None:
        """End both with SIGKILL."""
        self._front.kill()
        self._engine.kill()

    def restart(self) -> None:
        """Stop both and start them on the same ports with the same data."""
        self.stop()
        self.start()

    def stop_engine(self) -> None:
        """End the engine only: the front answers 502."""
        self._engine.stop()

    def start_engine(self) -> None:
        """Start the engine again."""
        self._engine.start()

    def pause(self) -> None:
        """Let both hang."""
        self._front.pause()
        self._engine.pause()

    def resume(self) -> None:
        """Let both go on after ``pause``."""
        self._engine.resume()
        self._front.resume()

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the rows of an InfluxQL query, all series one after the other; time in ns."""
        form = urllib.parse.urlencode({"db": self.bucket, "epoch": "ns", "q": text}).encode()
        address = f"http://{HOST}:{self._engine.port}/query"
        with urllib.request.urlopen(address, form, timeout=READY) as reply:
            answer = json.load(reply)["results"][0]
        if "error" in answer:
            raise AssertionError(answer["error"])
        return [
            dict(zip(series["columns"], row, strict=True)) | series.get("tags", {})
            for series in answer.get("series", [])
            for row in series["values"]
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class VictoriaMetrics(Server):
    """VictoriaMetrics, which takes InfluxDB's lines; it asks for no token and cuts time to ms."""

    name = "victoria-metrics"
    org = "plant"
    bucket = "energy"
    token = "any"

    @property
    def url(self) -> str:
        """The address as a sink's ``url``."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [
            program("victoria-metrics"),
            f"-httpListenAddr={HOST}:{self.port}",
            f"-storageDataPath={self.folder}/data",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",
            "-memory.allowedBytes=64MB",
        ]

    def series(self, metric: str) -> list[tuple[dict[str, str], list[tuple[int, float]]]]:
        """Return labels and (ms, value) of each series of ``<measurement>_<field>``."""
        urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=READY).close()
        form = urllib.parse.urlencode({"match[]": metric}).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/export", form, timeout=READY) as reply:
            found = [json.loads(line) for line in reply]
        return [(f["metric"], list(zip(f["timestamps"], f["values"], strict=True))) for f in found]


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
