"""One Modbus link and all units behind it: what is asked, in which order, and what is made of it.

The requests of a stream's plan are asked one after the other and their answers lie side by side in
one row. What a device refuses, or answers with another length than asked for, spoils the columns of
that request only; a unit that is silent is ``NoAnswer``; a link that is gone is ``Disconnected``.
What is found out about a device (``modbus_learn``) costs at most a twentieth of the link's time,
a fifth where the device has it to itself.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from edge_agent.clock import Clock, midway
from edge_agent.drivers.base import Group, Vocabulary, apply_flag, groups_of
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_decode import U16, TextReader
from edge_agent.drivers.modbus_learn import Inquiry
from edge_agent.drivers.modbus_lessons import Lessons
from edge_agent.drivers.modbus_parts import Spare
from edge_agent.drivers.modbus_plan import Request
from edge_agent.drivers.modbus_wire import Manners, Refused, Wire, Words
from edge_agent.errors import ConfigError, NoAnswer
from edge_agent.model import U8, Quality, SampleBlock, Schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stream:
    """One stream of one unit."""

    device: str
    config: ModbusDevice
    schema: Schema
    inquiry: Inquiry
    texts: dict[int, TextReader]

    @classmethod
    def of(
        cls, device: str, config: ModbusDevice, group: Group, tags: tuple[str, ...], known: Lessons
    ) -> "_Stream":
        inquiry = Inquiry(partial(config.replan, config.plan(tags)), known)
        columns = enumerate(inquiry.plan.registers)
        readers = {i: TextReader() for i, r in columns if r.type == "text"}
        return cls(device, config, group.schema, inquiry, readers)


class ModbusDriver:
    """One socket or serial line and all units behind it."""

    def __init__(self, devices: Mapping[str, ModbusDevice], clock: Clock) -> None:
        """Plan every stream; ``ConfigError`` if the devices do not agree on what the line is."""
        self._clock = clock
        first, *others = devices
        lines = {name: device.line for name, device in devices.items()}
        differing = [name for name in others if lines[name] != lines[first]]
        if differing:
            raise ConfigError(
                [
                    f"devices.{name}: {lines[name].difference(lines[first])} "
                    f"(it shares its link with {first}: both must say the same)"
                    for name in differing
                ]
            )
        manners = {d.unit: Manners(float(d.timeout), float(d.pause)) for d in devices.values()}
        self._wire = Wire(lines[first], manners)
        self._lock = asyncio.Lock()
        # a device that has its link to itself keeps nobody waiting
        self._spare = Spare(share=0.2, most=0.4) if len(devices) == 1 else Spare()
        self._devices = dict(devices)
        self._lessons = {name: Lessons() for name in devices}
        self._streams: dict[str, _Stream] = {}
        groups: list[Group] = []
        for name, device in devices.items():
            for group, tags in groups_of(name, device).items():
                groups.append(group)
                self._streams[group.schema.stream] = _Stream.of(
                    name, device, group, tags, self._lessons[name]
                )
        self._groups = tuple(groups)

    @property
    def groups(self) -> tuple[Group, ...]:
        return self._groups

    async def connect(self) -> None:
        await self._wire.open()

    async def close(self) -> None:
        await self._wire.close()

    @property
    def counts(self) -> Mapping[str, int]:
        """What went wrong on the wire without costing a value: frames passed over, retries."""
        return self._wire.counts

    async def read(self, group: Group) -> SampleBlock:
        async with self._lock:  # one request in flight per link
            return await self._scan(self._streams[group.schema.stream])

    async def probe(self, device: str) -> None:
        config, lessons = self._devices[device], self._lessons[device]
        streams = [s for s in self._streams.values() if s.device == device]
        known = {r.span for s in streams for r in s.inquiry.plan.registers}
        table, first, last = lessons.sign_of_life(known)
        async with self._lock:
            await self._wire.settle(config.unit)
            try:
                await self._wire.probe(config.unit, Request(table, first, last - first + 1, 0, ()))
            except TimeoutError as e:
                lessons.probed_in_vain += 1
                raise NoAnswer(device, str(e)) from e
        lessons.heard += 1
        lessons.probed_in_vain = 0

    def save(self) -> dict[str, object]:
        devices = {
            name: {"map": self._devices[name].fingerprint, **lessons.save()}
            for name, lessons in self._lessons.items()
            if lessons.version
        }
        texts = {
            name: {
                stream.schema.tags[i].name: reader.vocabulary.save()
                for i, reader in stream.texts.items()
            }
            for name, stream in self._streams.items()
            if stream.texts
        }
        return {"devices": devices, "texts": texts}

    def load(self, state: Mapping[str, object], /) -> None:
        now = self._clock.monotonic()
        for name, learnt in _mappings(state.get("devices")):
            device = self._devices.get(name)
            if device is not None and learnt.get("map") == device.fingerprint:
                known = [device.register(tag).span for tag in device.tags.values()]
                self._lessons[name].load(learnt, known, now)
        for name, columns in _mappings(state.get("texts")):
            stream = self._streams.get(name)
            for tag, said in _mappings(columns):
                column = None if stream is None else stream.schema.index.get(tag)
                if stream is not None and column in stream.texts:
                    with suppress(ValueError, TypeError):
                        stream.texts[column].vocabulary = Vocabulary.load(said)

    @property
    def learnt(self) -> dict[str, list[str]]:
        """What was found out about each device, a line each."""
        return {name: lessons.told() for name, lessons in self._lessons.items()}

    async def _scan(self, stream: _Stream) -> SampleBlock:
        inquiry, clock = stream.inquiry, self._clock
        plan = inquiry.begin(clock.monotonic())
        words = np.zeros((1, plan.words), np.uint16)
        lost = inquiry.lost
        began: float | None = None
        for request in plan.requests:
            await self._wire.settle(stream.config.unit)
            asked = clock.monotonic()
            began = asked if began is None else began
            try:
                answer = await self._wire.ask(stream.config.unit, request)
            except TimeoutError as e:
                inquiry.silent(request)
                waited = clock.monotonic() - asked
                raise NoAnswer(stream.device, str(e), waited=waited) from e
            self._note(stream, request, answer, words, lost)
        time = midway(clock, clock.monotonic() if began is None else began)
        await self._inquire(stream, words, lost)
        inquiry.end()
        self._tell(stream.device)
        if inquiry.is_unheard:
            raise NoAnswer(stream.device, "no answer")
        value, quality = plan.decode(words, lost, stream.texts)
        apply_flag(stream.config, stream.schema, value, quality)
        texts = {
            stream.schema.tags[i].name: reader.vocabulary.used(value[i])
            for i, reader in stream.texts.items()
        }
        return SampleBlock(stream.schema, np.array([time], np.int64), value, quality, texts)

    async def _inquire(self, stream: _Stream, words: U16, lost: U8) -> None:
        """Ask what the plan leaves out, as far as the others of the link have time to spare."""
        inquiry, clock = stream.inquiry, self._clock
        while self._spare.is_left(clock.monotonic()):
            request = inquiry.further()
            if request is None:
                return
            began = clock.monotonic()
            await self._wire.settle(stream.config.unit)
            try:
                answer = await self._wire.ask(stream.config.unit, request, is_trial=True)
            except TimeoutError:
                lost[0, request.where] = inquiry.silent(request)
            else:
                self._note(stream, request, answer, words, lost)
            finally:
                self._spare.spend(clock.monotonic() - began)

    def _note(
        self, stream: _Stream, request: Request, answer: Words | Refused, words: U16, lost: U8
    ) -> None:
        """Keep what an answer brings: its words, or why there are none."""
        if isinstance(answer, Refused):
            quality = stream.inquiry.refused(request, answer.code)
            if request.offset >= 0:
                lost[0, request.where] = quality
            return
        stream.inquiry.answered(request)
        if request.offset >= 0:
            words[0, request.offset : request.offset + request.count] = answer
            lost[0, request.where] = Quality.GOOD

    def _tell(self, device: str) -> None:
        """Log what was learnt of a device, once."""
        news = self._lessons[device].news
        while news:
            log.info("%s: %s", device, news.pop(0))


def _mappings(written: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the entries of a mapping that are mappings themselves."""
    if isinstance(written, Mapping):
        for name, entry in written.items():
            if isinstance(entry, Mapping):
                yield str(name), entry
