"""``modbus_load.c`` in Python, for machines without a compiler: the same arguments and records."""

import os
import selectors
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.gateway_load import SCAN, STAMP, expected

FRAME = 12  # bytes of a request


class Units:
    """All units of all ports and the scans that were asked of them."""

    def __init__(self, tags: int, step_ms: int, base: int) -> None:
        self._tags, self._step_ms, self._base = tags, step_ms, base
        self.requests = self.done = 0
        self.scans: list[list[int]] = []
        self._open: dict[tuple[int, int], list[int]] = {}
        self._words: dict[tuple[int, int], tuple[int, bytes]] = {}

    def answer(self, frame: bytes, link: int) -> bytes:
        """Return the answer to one request."""
        transaction, _, _, unit, function, first, count = struct.unpack(">HHHBBHH", frame)
        self.requests += 1
        readable = function in {3, 4}
        if not readable or not 1 <= count <= 125 or first + count > 2 * self._tags:
            refusal = 2 if readable else 1
            return struct.pack(">HHHBBB", transaction, 0, 3, unit, function | 0x80, refusal)
        scan = self._open.get((link, unit))
        if scan is None or not first:
            stamp = time.time_ns() // 125_000 % STAMP
            scan = self._open[link, unit] = [time.monotonic_ns(), 0, stamp, 0, link, unit, 0]
            self.scans.append(scan)
        scan[3] += 1
        words = self._registers(link, unit, scan[2])[2 * first : 2 * (first + count)]
        if first + count == 2 * self._tags:
            scan[1], scan[6] = time.monotonic_ns(), 1
            self.done += 1
        size = len(words)
        return struct.pack(">HHHBBB", transaction, 0, 3 + size, unit, function, size) + words

    def _registers(self, link: int, unit: int, stamp: int) -> bytes:
        """Return all registers of a unit as they are now."""
        step = time.time_ns() // 1_000_000 // self._step_ms
        known, words = self._words.get((link, unit), (-1, b""))
        if known != step:
            words = expected(self._tags, link, unit, step, self._base).astype(">f4").tobytes()
            self._words[link, unit] = step, words
        return struct.pack(">f", stamp / 8) + words[4:]


class Peers:
    """The listening sockets, the connections and standard input."""

    def __init__(self, units: Units, links: int) -> None:
        self._units = units
        self._selector = selectors.DefaultSelector()
        self._left: dict[socket.socket, bytes] = {}
        self.ports = list[int]()
        for link in range(links):
            server = socket.create_server(("127.0.0.1", 0), backlog=16)
            self._selector.register(server, selectors.EVENT_READ, (link, True))
            self.ports.append(server.getsockname()[1])
        self._selector.register(sys.stdin, selectors.EVENT_READ, (-1, False))

    def serve(self) -> None:
        """Answer until standard input ends."""
        while True:
            for key, _ in self._selector.select():
                link, listens = key.data
                if link < 0:
                    if not os.read(0, 1):
                        return
                    print(self._units.requests, self._units.done, flush=True)
                elif listens:
                    peer, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._left[peer] = b""
                    self._selector.register(peer, selectors.EVENT_READ, (link, False))
                else:
                    self._read(key.fileobj, link)  # type: ignore[arg-type]

    def _read(self, peer: socket.socket, link: int) -> None:
        try:
            got = peer.recv(4096)
        except OSError:
            got = b""
        if not got:
            self._selector.unregister(peer)
            peer.close()
            return
        asked = self._left[peer] + got
        whole = len(asked) - len(asked) % FRAME
        answers = (self._units.answer(asked[i : i + FRAME], link) for i in range(0, whole, FRAME))
        peer.sendall(b"".join(answers))
        self._left[peer] = asked[whole:]


def main(file: str, links: int, tags: int, step_ms: int, base: int) -> None:
    units = Units(tags, step_ms, base)
    peers = Peers(units, links)
    print("ports", *peers.ports, flush=True)
    peers.serve()
    Path(file).write_bytes(np.array([tuple(scan) for scan in units.scans], SCAN).tobytes())


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
