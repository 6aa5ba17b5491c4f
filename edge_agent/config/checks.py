"""The second pass: what is wrong between entries that are right each by itself.

Names, units, references, links, shifts, streams. An entry that failed the first pass is left out,
and whoever refers to it is not blamed for that.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from ipaddress import ip_address
from itertools import combinations
from urllib.parse import parse_qs, urlsplit

from edge_agent.config.config import SitePlant
from edge_agent.config.tables import Tables
from edge_agent.config.tree import Key, MapNode, Node, Steps, walk
from edge_agent.config.words import nearest
from edge_agent.drivers.base import DeviceConfig, TagConfig
from edge_agent.errors import ConfigError, Fault
from edge_agent.metrics.base import MetricConfig, Mistakes, QualityLimits, Reference
from edge_agent.model import Kind
from edge_agent.sinks.base import SinkConfig
from edge_agent.units import Duration, Unit

Report = Callable[[Steps, str], None]

SHORTEST = Duration.parse("10ms")  # a poll period below is a mistake
RESERVED = {"history", "metrics"}  # readers of the log that are no sinks
ID = re.compile(r"[a-z0-9-]+")
_TAG_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Checked:
    """A tree with the entries that came out of it right."""

    root: MapNode
    file: str
    faults: list[Fault]

    def report(self, steps: Steps, message: str) -> None:
        """Add a mistake at some steps from the root, or as near to it as the tree goes."""
        self.faults.append(walk(self.root, steps)[0].mark.fault(message))

    def report_here(self, steps: Steps, message: str) -> None:
        """Add a mistake at some steps, but in the plant's own file: not in a template."""
        for length in range(len(steps), 0, -1):
            node, found = walk(self.root, steps[:length])
            if len(found) == length and node.mark.file == self.file:
                self.faults.append(node.mark.fault(message))
                return
        self.report(steps[:2], message)


# ---- names -----------------------------------------------------------------------------------


def names(checked: Checked) -> None:
    """Check ids: ``[a-z0-9-]+``, one namespace of devices and metrics, some sink names taken."""
    seen: dict[str, Steps] = {}
    for section in ("devices", "metrics", "alarms", "sinks"):
        for key, node in _entries(checked.root, section).items():
            if not ID.fullmatch(str(key)):
                node_mark = node.mark
                checked.faults.append(
                    node_mark.fault(f'"{key}" is not a name: write a-z, 0-9 and -')
                )
            if section == "sinks":
                if key in RESERVED:
                    checked.report((section, key), f'the name "{key}" is taken by the agent itself')
            elif str(key) in seen:
                other = walk(checked.root, seen[str(key)])[0].mark
                message = f'"{key}" names a device already (line {other.line}): one name, one thing'
                checked.report((section, key), message)
            else:
                seen[str(key)] = (section, key)


def _entries(root: MapNode, section: str) -> Mapping[Key, Node]:
    node = root.items.get(section)
    return node.items if isinstance(node, MapNode) else {}


# ---- site, shifts, quality -------------------------------------------------------------------


def shifts(calendar: Mapping[str, str], report: Report) -> None:
    """Check that each shift is ``08:00-16:00`` and no two overlap."""
    spans: dict[str, tuple[int, int]] = {}
    for name, text in calendar.items():
        try:
            start, end = (_minute(part) for part in text.split("-"))
        except ValueError:
            report(("shifts", "calendar", name), f'"{text}" is not a shift (write "08:00-16:00")')
            continue
        if start == end:
            report(("shifts", "calendar", name), f'"{text}" has no length')
            continue
        spans[name] = (start, end if end > start else end + 1440)
    for (first, a), (second, b) in combinations(spans.items(), 2):
        if any(a[0] < b[1] + day and b[0] + day < a[1] for day in (-1440, 0, 1440)):
            report(("shifts", "calendar", second), f'overlaps with shift "{first}"')


def _minute(text: str) -> int:
    time = datetime.strptime(text.strip(), "%H:%M")  # noqa: DTZ007  a time of day has no zone
    return time.hour * 60 + time.minute


def quality(limits: QualityLimits, report: Report) -> None:
    """Check that shares are fractions, and that a window is UNCERTAIN before it is BAD."""
    if not 0 <= limits.bad_below <= limits.uncertain_below <= 1:
        report(("quality",), "must be 0 <= bad_below <= uncertain_below <= 1 (fractions)")


SMALLEST = {"raw_bytes": 32 << 20, "slots_bytes": 8 << 20, "metrics_bytes": 16 << 20}


def retention(kept: Mapping[str, int], report: Report) -> None:
    """Check that each size holds what SQLite needs beside the rows."""
    for name, least in SMALLEST.items():
        if kept[name] < least:
            report(("retention", name), f"must be at least {least >> 20}MiB")


def listen(address: str, report: Report) -> None:
    """Check that the dashboard's address is ``host:port`` of this machine's loopback.

    The page knows no users yet, so everybody who reaches it could read it.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        report(("web", "listen"), f'"{address}" is not an address (write "127.0.0.1:8080")')
    elif not _is_loopback(host.removeprefix("[").removesuffix("]")):
        report(
            ("web", "listen"),
            f'"{address}" is open to the network, and the page has no users yet: '
            f'listen on "127.0.0.1:{port}" and put a reverse proxy with a login in front',
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# ---- devices ---------------------------------------------------------------------------------


def device(name: str, config: DeviceConfig, report: Report) -> bool:
    """Check one device; return whether its address is one, so that it can be asked for its link."""
    here: Steps = ("devices", name)
    if not config.tags and config.template is None:
        report(here, "has no tags: name a template or write tags")
    for tag, written in config.tags.items():
        for steps, message in _tag_faults(tag, written):
            report((*here, "tags", tag, *steps), message)
        if written.mode == "poll" and config.period_of(written) < SHORTEST:
            report((*here, "poll"), "a poll period must be at least 10ms")
        if written.scale_from is not None and written.scale_from not in config.tags:
            hint = nearest(written.scale_from, config.tags)
            message = f'unknown tag "{written.scale_from}"{hint}'
            report((*here, "tags", tag, "scale_from"), message)
    if config.flag is not None and config.flag.tag not in config.tags:
        hint = nearest(config.flag.tag, config.tags)
        report((*here, "flag", "tag"), f'unknown tag "{config.flag.tag}"{hint}')
    if config.timeout <= 0:
        report((*here, "timeout"), "must be longer than 0s")
    return _address(config, lambda steps, message: report((*here, *steps), message))


def _address(config: DeviceConfig, report: Report) -> bool:
    """Check what only the driver knows; return whether the device can be asked for its link."""
    wrong = ""
    try:
        _ = urlsplit(config.connect).port  # parsed only when it is asked for
        hash(config.link)
    except ValueError as error:
        wrong = f'"{_no_password(config.connect)}" is not an address: {error}'
    try:
        found = config.faults()
    except ValueError:
        found = []  # it could not read its address either
    for steps, message in found:
        report(steps, message)
    if wrong and not any(steps == ("connect",) for steps, _ in found):
        report(("connect",), wrong)
    return not wrong


def _tag_faults(name: str, tag: TagConfig) -> Iterator[tuple[Steps, str]]:
    if not _TAG_NAME.fullmatch(name):
        yield (), f'"{name}" is not the name of a tag: write a-z, 0-9 and _'
    try:
        Unit.parse(tag.unit)
    except ValueError as error:
        yield ("unit",), f"{error} (write a UCUM code: kW, kW.h, mg/m3, Cel; or kWh, °C, t/h, kgce)"
    if tag.range is not None and not tag.range[0] < tag.range[1]:
        yield ("range",), "must be [lowest, highest]"
    if tag.modulus is not None and tag.kind != "counter":
        yield ("modulus",), 'only a counter has a modulus (write "kind: counter" beside it)'
    if tag.scale == 0:
        yield ("scale",), "must not be 0"
    if tag.scale_from == name:
        yield ("scale_from",), "a tag cannot be its own exponent"
    text = tag.type == "text" or tag.kind == "text"
    if text and (tag.kind not in {"gauge", "text"} or tag.type not in {None, "text"}):
        yield ("kind",), "a text is no number: write type: text and no other kind"
    if text and (tag.scale_from or tag.range or tag.invalid or (tag.scale, tag.offset) != (1, 0)):
        yield (), "a text has no scale, scale_from, offset, range or invalid"
    if tag.length is not None and not text:
        yield ("length",), "only a text has a length"


def _no_password(address: str) -> str:
    return re.sub(r"(?<=//)[^/@]*@", "***@", address)


def links(devices: Mapping[str, DeviceConfig], checked: Checked) -> None:
    """Check that what belongs to a line is equal for its devices, and no unit is there twice."""
    first_of: dict[Hashable, str] = {}
    units: dict[Hashable, str] = {}
    met: dict[Hashable, list[str]] = {}
    busy: dict[Hashable, float] = {}
    spoken: dict[Hashable, tuple[type[DeviceConfig], str]] = {}
    for name, config in devices.items():
        link = (type(config), config.link)
        kind, before = spoken.setdefault(config.link, (type(config), name))
        if kind is not type(config):
            message = f'"{before}" speaks another protocol on this line: a line has one'
            checked.report(("devices", name, "connect"), message)
        first = first_of.setdefault(link, name)
        for other in met.setdefault(link, []):
            if (what := _clash(config, devices[other])) is not None:
                message = f'{what} is "{other}" already'
                checked.report(("devices", name, "connect"), message)
        met[link].append(name)
        busy[link] = busy.get(link, 0.0) + _occupies(config)
        if busy[link] > 1.0 >= busy[link] - _occupies(config):
            message = (
                f"the polls of this line take {busy[link]:.0%} of its time: poll less often, take "
                "tags out, or give it more baud"
            )
            checked.report_here(("devices", name, "poll"), message)
        if any(scheme.startswith("modbus") for scheme in config.schemes):
            unit = config.option("unit", "1")
            other = units.setdefault((*link, unit), name)
            if other != name:
                message = f'unit {unit} of this link is "{other}" already'
                checked.report(("devices", name, "connect"), message)
        if first != name:
            for key, mine, its in _differences(config, devices[first]):
                message = (
                    f'"{key}" is {mine}, but {its} for "{first}" on the same link: write the same'
                )
                checked.report_here(("devices", name, key), message)


def _clash(one: DeviceConfig, other: DeviceConfig) -> str | None:
    try:
        return one.clash(other)
    except ValueError:
        return None  # one of the addresses is none, which is told there


def _occupies(config: DeviceConfig) -> float:
    try:
        return config.occupies
    except (ValueError, KeyError):
        return 0.0  # a tag's place or unit is none, or the flag's tag, which is told there


def _differences(one: DeviceConfig, other: DeviceConfig) -> list[tuple[str, str, str]]:
    """Return what two devices of one link do not agree on: (key, of the one, of the other)."""
    found = []
    if one.url.scheme != other.url.scheme:
        found.append(("connect", one.url.scheme, other.url.scheme))
    for key in one.shared:
        a, b = getattr(one, key, None), getattr(other, key, None)
        if a != b:
            mine, its = (f"{v:g}s" if isinstance(v, float) else "another" for v in (a, b))
            found.append((key, mine, its))
    options = [parse_qs(device.url.query) for device in (one, other)]
    for key in sorted((set(options[0]) | set(options[1])) - one.own_options):
        values = [option.get(key, ["not given"])[0] for option in options]
        if values[0] != values[1]:
            found.append((key, values[0], values[1]))
    return found


# ---- metrics ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tags:
    """Every tag that stands in the tree; those of devices that are right with what they are."""

    devices: Mapping[str, DeviceConfig]
    written: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, MetricConfig | None]

    @classmethod
    def of(
        cls,
        root: MapNode,
        devices: Mapping[str, DeviceConfig],
        metrics: Mapping[str, MetricConfig],
    ) -> "Tags":
        """Return the tags of a tree."""
        written = {}
        for name, node in _entries(root, "devices").items():
            tags = node.items.get("tags") if isinstance(node, MapNode) else None
            written[str(name)] = tuple(map(str, tags.items)) if isinstance(tags, MapNode) else ()
        named = [*_entries(root, "metrics"), *_entries(root, "alarms")]
        every = {str(name): metrics.get(str(name)) for name in named}
        return cls(devices, written | {name: tuple(d.tags) for name, d in devices.items()}, every)

    def fault(self, reference: Reference, plant: SitePlant) -> str | None:
        """Return what is wrong with a reference."""
        device, dot, name = reference.tag.partition(".")
        if not dot:
            every = [f"{d}.{t}" for d, tags in self.written.items() for t in tags]
            near = _only_near(reference.tag, every)
            return f'"{reference.tag}" is not a tag: write device.tag{near}'
        if device in self.metrics and device not in self.written:
            return self._column_fault(reference, device, plant)
        if device not in self.written:
            known = [*self.written, *self.metrics]
            return f'unknown device in "{reference.tag}"{nearest(device, known)}'
        if device not in self.devices:
            return None  # it has mistakes of its own
        if name not in self.written[device]:
            near = nearest(reference.tag, [f"{device}.{t}" for t in self.written[device]])
            return f'unknown tag "{reference.tag}"{near}'
        written = self.devices[device].tags[name]
        return _wrong(reference, Kind(written.kind), written.unit)

    def _column_fault(self, reference: Reference, owner: str, plant: SitePlant) -> str | None:
        """Return what is wrong with a reference to a column of another metric."""
        if self.metrics[owner] is None:
            return None  # it has mistakes of its own
        try:
            plant.named.outputs(owner)
        except (ConfigError, KeyError, ValueError) as error:
            told = str(error.args[0])
            return told if "circle" in told else None
        try:
            schema, column = plant.named.column(reference.tag)
        except KeyError as error:
            return str(error.args[0])
        tag = schema.tags[schema.index[column]]
        return _wrong(reference, tag.kind, tag.unit.code)


def _only_near(text: str, known: list[str]) -> str:
    near = nearest(text, known)
    return near if "did you mean" in near else ""


def _wrong(reference: Reference, kind: Kind, unit: str) -> str | None:
    """Return in what a tag is not what a KPI needs."""
    if reference.kind is not None and kind is not reference.kind:
        return f'"{reference.tag}" is a {kind.value}, must be a {reference.kind.value}'
    if reference.unit is None:
        return None
    try:
        written = Unit.parse(unit)
    except ValueError:
        return None  # told at the tag
    wanted = (reference.unit,) if isinstance(reference.unit, str) else reference.unit
    if all(written.dimension != Unit.parse(one).dimension for one in wanted):
        shown = unit if unit != "1" else "no unit"
        told = " or ".join(wanted)
        return f'"{reference.tag}" has {shown}, must be convertible to {told}'
    return None


def metric(
    name: str, config: MetricConfig, tags: Tags, plant: SitePlant, report: Report, *, build: bool
) -> None:
    """Check one KPI: references, windows, tables, its own checks; then that it can be built.

    plant  with those devices only that have no mistake
    build  false: what a KPI is built from is wrong, which is told already
    """
    here: Steps = (config.section, name)
    references = config.references()
    found: list[tuple[Steps, str]] = [
        (reference.path, message)
        for reference in references
        if (message := tags.fault(reference, plant)) is not None
    ]
    if "shift" in config.windows and not plant.shifts:
        found.append(
            (("windows",), "there are no shifts for the window shift: write shifts.calendar")
        )
    if len(set(config.windows)) < len(config.windows):
        found.append((("windows",), "a window stands twice"))
    if not config.windows and type(config).windows:
        found.append((("windows",), "needs at least one window (without the line: the usual ones)"))
    found += _rows_named(config, plant.tables)
    own = config.faults()
    told = {steps for steps, _ in own}
    found += [*own, *(fault for fault in _counted_twice(references) if fault[0] not in told)]
    owners = {r.tag.partition(".")[0] for r in references}
    if build and not found and all(o in plant.devices or plant.named.sound(o) for o in owners):
        try:
            config.build(name, plant)
        except Mistakes as error:
            found += error.found
        except (KeyError, ValueError) as error:
            found.append(((), str(error.args[0] if error.args else error)))
    for steps, message in found:
        report((*here, *steps), message)


def _counted_twice(references: Sequence[Reference]) -> Iterator[tuple[Steps, str]]:
    """Yield the tags that stand in one list twice."""
    seen: set[tuple[Steps, str]] = set()
    for reference in references:
        *above, place = reference.path or ("",)
        entry = tuple(above), reference.tag
        if isinstance(place, int) and entry in seen:
            yield reference.path, f'"{reference.tag}" is in this list already: it would count twice'
        seen.add(entry)


def _rows_named(config: MetricConfig, tables: Tables) -> Iterator[tuple[Steps, str]]:
    """Yield what is wrong with the rows of tables that a KPI names."""
    product, limits = (getattr(config, key, None) for key in ("product", "limits"))
    if isinstance(product, str) and product not in tables.products:
        hint = nearest(product, tables.products)
        yield ("product",), f'"{product}" is no product of configs/benchmarks{hint}'
    if isinstance(limits, str) and not tables.emission_limits(limits):
        hint = nearest(limits, tables.emission_ids)
        yield ("limits",), f'"{limits}" begins no id of configs/limits{hint}'


# ---- sinks -----------------------------------------------------------------------------------


def sink(name: str, config: SinkConfig, owners: list[str], report: Report) -> None:
    """Check one sink: its own checks, and that its patterns match some stream."""
    here: Steps = ("sinks", name)
    for i, pattern in enumerate(config.streams):
        owner = pattern.partition("/")[0]
        if not any(fnmatchcase(known, owner) for known in owners):
            hint = nearest(owner, owners)
            report((*here, "streams", i), f'"{pattern}" matches no device and no metric{hint}')
    for steps, message in (*config.pace_faults(), *config.faults()):
        report((*here, *steps), message)


def sessions(sinks: Mapping[str, SinkConfig], report: Report) -> None:
    """Check that no two sinks throw each other out of a peer that knows them by an id."""
    held: dict[str, str] = {}
    for name, config in sinks.items():
        if (session := config.session()) in held:
            report(
                ("sinks", name),
                f'has the client id of sink "{held[session]}" at the same broker, so each would '
                'throw the other out (write client_id: "{site}-{gateway}-' + name + '")',
            )
        elif session:
            held[session] = name
