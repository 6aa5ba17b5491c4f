"""Real databases that take InfluxDB's write call; see ``tests.servers``."""

import base64
import json
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.process import HOST, READY, Server, free_port, program


class _Engine(Server):
    """influxd 1.x."""

    name = "influxd"

    def __init__(self, folder: Path, users: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.users = users

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
  auth-enabled = {"true" if self.users else "false"}
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
        folder, users = self.folder, self._engine.users
        tokens = [self._token] if not users else [f"{user}:{users[user]}" for user in users]
        logins = " ".join(f'"Token {token}" "{_basic(token)}";' for token in tokens)
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
  map $http_authorization $login {{ default "{_basic("nobody:") if users else ""}"; {logins} }}
  map $arg_bucket $database {{ default $arg_bucket; "~^(?<name>.*)%2F" $name; }}
  map $arg_bucket $policy {{ default ""; "~%2F(?<kept>.*)$" $kept; }}
  server {{
    listen {HOST}:{self.port};
    default_type application/json;
    location = /health {{ return 200 '{{"name":"influxdb","status":"pass"}}'; }}
    location = /ping {{ proxy_pass {engine}/ping; }}
    location = /api/v2/write {{
      if ($login = "") {{
        return 401 '{{"code":"unauthorized","message":"unauthorized access"}}';
      }}
      proxy_set_header Authorization $login;
      proxy_pass {engine}/write?db=$database&rp=$policy&precision=$precision;
    }}
  }}
}}
"""
        )
        return [program("nginx"), "-e", str(folder / "error.log"), "-p", str(folder), "-c",
                str(configuration)]  # fmt: skip


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


class Influx:
    """A real InfluxDB engine (1.x) behind the write call of InfluxDB 2, with one bucket.

    largest  the size of a request above which the answer is 413
    users    name -> password; each is a token ``name:password`` as in InfluxDB 1.8, with no right
             until it is granted one; without, there is one token
    """

    org = "plant"
    bucket = "energy"
    token = "test-token"

    def __init__(
        self, folder: Path, *, largest: str = "32m", users: Mapping[str, str] | None = None
    ) -> None:
        self._engine = _Engine(folder, users or {})
        self._front = _Front(folder, self._engine, self.token, largest)

    @property
    def url(self) -> str:
        """The address as a sink's ``url``."""
        return f"http://{HOST}:{self._front.port}"

    @property
    def engine_url(self) -> str:
        """The address of the engine itself, which has no call of InfluxDB 2."""
        return f"http://{HOST}:{self._engine.port}"

    @property
    def port(self) -> int:
        """The port of ``url``."""
        return self._front.port

    def start(self) -> None:
        """Start both; the data of before is there."""
        self._engine.start()
        self.query("CREATE USER root WITH PASSWORD 'root' WITH ALL PRIVILEGES")
        for user, password in self._engine.users.items():
            self.query(f"CREATE USER {user} WITH PASSWORD '{password}'")
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

    def write(self, lines: str) -> None:
        """Write lines past the agent."""
        address = f"http://{HOST}:{self._engine.port}/write?db={self.bucket}"
        urllib.request.urlopen(address, lines.encode(), timeout=READY).close()

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the rows of an InfluxQL query, all series one after the other; time in ns."""
        form = urllib.parse.urlencode({"db": self.bucket, "epoch": "ns", "q": text}).encode()
        address = f"http://{HOST}:{self._engine.port}/query"
        request = urllib.request.Request(address, form, {"Authorization": _basic("root:root")})
        with urllib.request.urlopen(request, timeout=READY) as reply:
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
