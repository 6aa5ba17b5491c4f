"""A file into a ``Config``, or every mistake of it at once."""

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from zoneinfo import ZoneInfo, available_timezones

from edge_agent.config import checks
from edge_agent.config.config import Config, Retention, Shifts, SiteConfig, SitePlant, Web
from edge_agent.config.entries import Registry, make, text_at, without
from edge_agent.config.standing import standing
from edge_agent.config.tables import Tables, data_dir
from edge_agent.config.templates import Templates
from edge_agent.config.tree import (
    Key,
    MapNode,
    Mark,
    Node,
    expand,
    is_null,
    lay_over,
    of,
    read,
)
from edge_agent.config.words import nearest
from edge_agent.drivers.base import DeviceConfig
from edge_agent.errors import ConfigError, Fault
from edge_agent.metrics.base import MetricConfig, QualityLimits
from edge_agent.model import Site
from edge_agent.sinks.base import SinkConfig
from edge_agent.units import Duration

T = TypeVar("T")

SECTIONS = (
    *("site", "data", "retention", "devices", "shifts", "quality"),
    *("metrics", "alarms", "sinks", "web", "commit"),
)
OVERLAY = Mark("overlay", 0, 0)


def load(
    path: Path,
    overlay: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    registry: Registry | None = None,
) -> Config:
    """Return the configuration of a file.

    overlay   laid over the file's data before it is checked; None as a value takes a key out
    env       what ``${NAME}`` is read from; the process's environment
    registry  the classes that can be named; those installed
    errors    ``ConfigError`` with every mistake, in the order of the file
    """
    reading = _Reading(path, os.environ if env is None else env, registry or Registry.installed())
    with uncollected():
        config = reading.config(overlay or {})
    if reading.faults or config is None:
        raise ConfigError(reading.told())
    return config


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking for garbage where there is none.

    A large configuration is millions of objects, all of them in use; going through them again and
    again takes longer than making them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Reading:
    """One reading of one file: the tree, what came out of it, and the mistakes so far."""

    def __init__(self, path: Path, env: Mapping[str, str], registry: Registry) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self._env = env
        self._registry = registry
        self._folders = [path.absolute().parent, data_dir()]
        self._templates = Templates(self._folders, env, self.faults)
        self._root = MapNode(Mark(str(path)))
        self._unset: list[
            Fault
        ] = []  # what else is wrong with an empty text is no mistake of its own

    def told(self) -> list[Fault]:
        """Return the mistakes, once each, those of the plant's own file first."""
        unset = {_place(f) for f in self._unset if f.line}
        faults = {f for f in self.faults if f in self._unset or _place(f) not in unset}
        return sorted(faults, key=lambda f: (f.file != str(self.path), f))

    def config(self, overlay: Mapping[str, object]) -> Config | None:
        """Return the configuration as far as it is right; mistakes go to ``faults``."""
        self._root = self._tree(overlay)
        site = self._site()
        data = self._text("data", "data")
        retention = self._section("retention", Retention)
        limits = self._section("quality", QualityLimits)
        shifts = self._section("shifts", Shifts)
        web = self._section("web", Web)
        commit = self._commit()
        tables = self._tables()
        devices = {name: made for name, made in self._devices() if made is not None}
        metrics = self._metrics()
        sinks = self._typed("sinks", {kind.kind: kind for kind in self._registry.sinks})
        before = len(self.faults)
        self._check(limits, shifts, web, retention)
        whole = bool(site and limits and shifts and tables) and len(self.faults) == before
        plant = SitePlant(
            site or Site("unknown", "main", ""),
            shifts.calendar if shifts else {"": ""},
            limits or QualityLimits(),
            devices,
            tables or Tables(),
        )
        self._check_entries(plant, devices, metrics, sinks, build=whole)
        if not (site and retention and limits and shifts and web and tables):
            return None
        folder = (self.path.absolute().parent / Path(data).expanduser()).resolve()
        return Config(
            path=self.path,
            site=site,
            data=folder,
            retention=retention,
            devices=MappingProxyType(devices),
            shifts=MappingProxyType(dict(shifts.calendar)),
            quality=limits,
            metrics=MappingProxyType(metrics),
            sinks=MappingProxyType({name: s.below(folder) for name, s in sinks.items()}),
            web=web,
            commit=commit,
            tables=tables,
        )

    # ---- the tree ----

    def _tree(self, overlay: Mapping[str, object]) -> MapNode:
        root = lay_over(read(self.path, self.faults), of(overlay, OVERLAY))
        root = expand(root, self._env, self._unset)
        self.faults += self._unset
        items: dict[Key, Node] = {}
        for key, node in root.items.items() if isinstance(root, MapNode) else ():
            if key not in SECTIONS:
                hint = nearest(str(key), SECTIONS)
                self.faults.append(node.mark.above.fault(f'unknown key "{key}"{hint}'))
            elif not is_null(node):  # a section whose lines are all commented out
                items[key] = node
        return MapNode(root.mark, items=items)

    def _entries(self, section: str) -> dict[str, Node]:
        node = self._root.items.get(section, MapNode(self._root.mark))
        if isinstance(node, MapNode):
            return {str(key): item for key, item in node.items.items()}
        self.faults.append(node.mark.fault("must be a mapping: {name: …}"))
        return {}

    # ---- sections ----

    def _section(self, name: str, kind: type[T]) -> T | None:
        return make(kind, self._root.items.get(name, MapNode(self._root.mark)), self.faults)

    def _text(self, name: str, default: str) -> str:
        node = self._root.items.get(name)
        if node is None:
            return default
        if not isinstance(node.value, str):
            self.faults.append(node.mark.fault("must be text"))
            return default
        return node.value

    def _commit(self) -> Duration | None:
        node = self._root.items.get("commit")
        return None if node is None else make(Duration, node, self.faults)

    def _site(self) -> Site | None:
        if "site" not in self._root.items:
            self.faults.append(self._root.mark.fault('"site" is missing'))
            return None
        written = self._section("site", SiteConfig)
        if written is None:
            return None
        for key, text in (("id", written.id), ("gateway", written.gateway)):
            if not checks.ID.fullmatch(text):
                self._report(("site", key), f'"{text}" is not a name: write a-z, 0-9 and -')
        try:
            zone = ZoneInfo(written.timezone)
        except (KeyError, ValueError, OSError):
            hint = nearest(written.timezone, available_timezones())
            self._report(("site", "timezone"), f'unknown time zone "{written.timezone}"{hint}')
            return None
        return Site(written.id, written.gateway, written.name or written.id, zone)

    def _tables(self) -> Tables | None:
        try:
            return Tables(*self._folders)
        except ConfigError as error:
            self.faults += [f for f in error.faults if isinstance(f, Fault)]
            return None

    # ---- entries ----

    def _devices(self) -> list[tuple[str, DeviceConfig | None]]:
        entries = self._entries("devices")
        if not entries:
            self.faults.append(
                self._root.mark.fault('"devices" is missing: there is nothing to read')
            )
        merged: dict[Key, Node] = {}
        found = []
        for name, node in entries.items():
            kind = self._device_class(node)
            whole = node
            if kind is not None and isinstance(node, MapNode):
                whole = self._templates.under(node, kind)
            merged[name] = whole
            found.append((name, None if kind is None else make(kind, whole, self.faults)))
        if entries:
            devices = MapNode(self._root.items["devices"].mark, items=merged)
            self._root = MapNode(self._root.mark, items={**self._root.items, "devices": devices})
        return found

    def _device_class(self, node: Node) -> type[DeviceConfig] | None:
        address = text_at(node, "connect", self.faults)
        if address is None or not isinstance(node, MapNode):
            return None
        schemes = self._registry.schemes()
        scheme = address.partition(":")[0]
        if scheme in schemes:
            return schemes[scheme]
        mark = node.items["connect"].mark
        if "://" in address:
            self.faults.append(mark.fault(f'unknown scheme "{scheme}"{nearest(scheme, schemes)}'))
        else:
            self.faults.append(
                mark.fault(f"must be an address that begins with {', '.join(schemes)}")
            )
        return None

    def _metrics(self) -> dict[str, MetricConfig]:
        """Return the KPIs, and the alarms, which are metrics in a section of their own."""
        kinds = self._registry.metrics
        found = self._typed("metrics", {k.kind: k for k in kinds if k.section == "metrics"})
        for kind in (kind for kind in kinds if kind.section != "metrics"):
            for name, node in self._entries(kind.section).items():
                made = make(kind, node, self.faults)
                if made is not None:
                    found.setdefault(name, made)
        return found

    def _typed(self, section: str, kinds: Mapping[str, type[T]]) -> dict[str, T]:
        found = {}
        for name, node in self._entries(section).items():
            written = text_at(node, "type", self.faults)
            if written is None:
                continue
            if written not in kinds:
                mark = _mark(node, "type")
                self.faults.append(mark.fault(f'unknown type "{written}"{nearest(written, kinds)}'))
                continue
            made = make(kinds[written], without(node, "type"), self.faults)
            if made is not None:
                found[name] = made
        return found

    # ---- second pass ----

    def _report(self, steps: tuple[Key, ...], message: str) -> None:
        checks.Checked(self._root, str(self.path), self.faults).report(steps, message)

    def _check(
        self,
        limits: QualityLimits | None,
        shifts: Shifts | None,
        web: Web | None,
        retention: Retention | None,
    ) -> None:
        checks.names(checks.Checked(self._root, str(self.path), self.faults))
        if limits is not None:
            checks.quality(limits, self._report)
        if shifts is not None:
            checks.shifts(shifts.calendar, self._report)
        if web is not None:
            checks.listen(web.listen, self._report)
        if retention is not None:
            checks.retention(vars(retention), self._report)

    def _check_entries(
        self,
        plant: SitePlant,
        devices: Mapping[str, DeviceConfig],
        metrics: Mapping[str, MetricConfig],
        sinks: Mapping[str, SinkConfig],
        *,
        build: bool,
    ) -> None:
        checked = checks.Checked(self._root, str(self.path), self.faults)
        linked: dict[str, DeviceConfig] = {}
        sound: dict[str, DeviceConfig] = {}
        for name, device in devices.items():
            before = len(self.faults)
            if checks.device(name, device, self._report):
                linked[name] = device
            if len(self.faults) == before:
                sound[name] = device
        checks.links(linked, checked)
        sections = ("devices", "metrics", "alarms")
        owners = [owner for section in sections for owner in self._entries(section)]
        by_itself = standing(sound, owners)
        plant = replace(plant, devices=sound, metrics={**metrics, **by_itself})
        tags = checks.Tags.of(self._root, devices, metrics)
        tags = replace(tags, metrics={**tags.metrics, **by_itself})
        for name, metric in metrics.items():
            checks.metric(name, metric, tags, plant, self._report, build=build)
        for name, sink in sinks.items():
            checks.sink(name, sink, [*owners, *by_itself], self._report)
        checks.sessions(sinks, self._report)


def _place(fault: Fault) -> tuple[str, int, int]:
    return fault.file, fault.line, fault.column


def _mark(node: Node, key: str) -> Mark:
    """Return the place of a key of a mapping, or of the mapping."""
    return node.items[key].mark if isinstance(node, MapNode) and key in node.items else node.mark
