"""What ``mosquitto_sub`` prints: a reader of the broker that shares no line with the agent."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.broker import Message, Mosquitto
from tests.process import HOST, READY, program, wait_until

MARK = "printed/mark"  # published by the reader itself, to know that it has read so far


@dataclass(frozen=True)
class Line(Message):
    """A message and when it was printed, in ns."""

    received_ns: int


class Printed:
    """The messages of a broker as the program ``mosquitto_sub`` prints them, in order of arrival.

    It subscribes with QoS 1, in a session that outlives restarts of the broker, and begins anew
    itself. Its output goes to a file: hundreds of thousands of messages cost no memory.
    """

    def __init__(
        self, broker: Mosquitto, file: Path, *topics: str, user: str | None = None
    ) -> None:
        self._broker = broker
        self._file = file
        self._topics = topics
        self._where = ["-h", HOST, "-p", str(broker.port)]
        if user is not None:
            self._where += ["-u", user, "-P", broker.users[user]]
        self._marks = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        topics = [word for topic in (*self._topics, MARK) for word in ("-t", topic)]
        with self._file.open("wb") as out:
            self._process = subprocess.Popen(
                [program("stdbuf"), "-oL", program("mosquitto_sub"), *self._where,
                 "-V", "mqttv5", "-q", "1", "-c", "-x", "3600", "-i", "printed",
                 "-F", "%U %r %t %p", *topics],
                stdin=subprocess.DEVNULL, stdout=out,
            )  # fmt: skip
        self.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(READY)

    def wait(self, seconds: float = READY) -> None:
        """Return when all is printed that the broker had when this was called."""
        self._marks += 1
        mark = f" 0 {MARK} {self._marks}\n".encode()

        def seen() -> bool:
            # until its subscription is there, the mark reaches nobody
            subprocess.run(
                [program("mosquitto_pub"), *self._where, "-q", "1", "-t", MARK,
                 "-m", str(self._marks)],
                check=True,
            )  # fmt: skip
            return mark in self._tail()

        wait_until(seen, seconds, "mosquitto_sub has printed the mark")

    def _tail(self) -> bytes:
        with self._file.open("rb") as file:
            file.seek(max(0, self._file.stat().st_size - 4096))
            return file.read()

    def messages(self) -> Iterator["Line"]:
        """Yield what was printed so far, in order."""
        with self._file.open("rb") as file:
            for line in file:
                moment, retained, name, payload = line.rstrip(b"\n").split(b" ", 3)
                topic = name.decode()
                if topic != MARK:
                    yield Line(topic, payload, retained == b"1", False, round(float(moment) * 1e9))
