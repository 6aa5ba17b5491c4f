"""Records sorted by stream: one file per stream in a folder, which is removed at the end."""

import struct
from collections.abc import Iterator
from pathlib import Path

from edge_agent import codec
from edge_agent.errors import Corrupt
from edge_agent.model import Gap, SampleBlock, Schema
from edge_agent.outbox_schema import Record

HELD = 16 << 20  # bytes that wait in memory to be written, of all streams together
_HEAD = struct.Struct("<IqqII")  # number of the schema, first and last time, rows, length


class Spool:
    """Takes records of many streams as they come, gives them back stream by stream.

    A thousand streams are a thousand files, so none is left open.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._schemas: list[Schema] = []
        self._numbers: dict[str, int] = {}  # by id
        self._waiting: dict[str, list[bytes]] = {}  # by stream
        self._paths: dict[str, Path] = {}
        self._size = 0

    @property
    def streams(self) -> list[str]:
        """The streams that have come, by name."""
        return sorted(self._paths)

    def schema(self, stream: str) -> Schema:
        """Return the first schema that a stream came with."""
        return next(schema for schema in self._schemas if schema.stream == stream)

    def add(self, record: Record, schema: Schema) -> None:
        """Take a record."""
        number = self._numbers.get(schema.id)
        if number is None:
            number = self._numbers[schema.id] = len(self._schemas)
            self._schemas.append(schema)
        times = (record.first_ns, record.last_ns)
        head = _HEAD.pack(number, *times, record.rows, len(record.payload))
        if schema.stream not in self._paths:
            self._paths[schema.stream] = self._folder / str(len(self._paths))
        self._waiting.setdefault(schema.stream, []).extend((head, record.payload))
        self._size += len(head) + len(record.payload)
        if self._size >= HELD:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for stream, parts in self._waiting.items():
            with self._paths[stream].open("ab") as file:
                file.writelines(parts)
        self._waiting.clear()
        self._size = 0

    def blocks(self, stream: str) -> Iterator[SampleBlock | Gap]:
        """Yield the blocks of a stream in the order in which they came; a gap for a damaged one."""
        if stream not in self._paths:
            return
        with self._paths[stream].open("rb") as file:
            while head := file.read(_HEAD.size):
                number, first_ns, last_ns, rows, length = _HEAD.unpack(head)
                schema = self._schemas[number]
                try:
                    yield codec.decode(file.read(length), schema)
                except Corrupt:
                    yield Gap(schema, first_ns, last_ns, rows, "corrupt")

    def forget(self, stream: str) -> None:
        """Remove the file of a stream: it has been read."""
        if stream in self._paths:
            self._paths[stream].unlink(missing_ok=True)
