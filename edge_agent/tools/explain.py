"""``edge-agent explain``: one tag on its way from the wire to everything that uses it."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from edge_agent.config import Config
from edge_agent.config.words import nearest
from edge_agent.drivers.base import DeviceConfig, Group, groups_of
from edge_agent.errors import ConfigError
from edge_agent.metrics.slots import slot_schema
from edge_agent.model import Kind
from edge_agent.terminal import labelled
from edge_agent.tools.models import Models
from edge_agent.tools.pasted import scalar

_KINDS = {
    "gauge": "gauge (a reading that goes up and down)",
    "counter": "counter (a total; figures use its increments)",
    "state": "state (a number that stands for a condition)",
    "text": "text",
}


def lines(config: Config, asked: str) -> Iterator[str]:
    """Yield the explanation of ``DEVICE.TAG``; ``ConfigError`` if there is none such."""
    device, tag = _named(config, asked)
    written = config.devices[device]
    group, names = next((g, n) for g, n in groups_of(device, written).items() if tag in n)
    yield from labelled(
        [
            ("tag", f"{device}.{tag}"),
            ("is", _meaning(written, tag)),
            *_template(config, written, tag),
            ("device", f"{written.connect}"),
            ("stream", _stream(written, group, tag, len(names))),
            *written.explain(device, tag),
            *_after(written, tag),
            *_used(config, f"{device}.{tag}", group),
        ]
    )


def _named(config: Config, asked: str) -> tuple[str, str]:
    device, dot, tag = asked.partition(".")
    if not dot:
        every = [f"{d}.{t}" for d, c in config.devices.items() for t in c.tags]
        raise ConfigError([f"explain: {asked}: write DEVICE.TAG{nearest(asked, every)}"])
    if device not in config.devices:
        hint = nearest(device, config.devices)
        raise ConfigError([f'explain: unknown device "{device}"{hint}'])
    tags = config.devices[device].tags
    if tag not in tags:
        raise ConfigError([f'explain: {device} has no tag "{tag}"{nearest(tag, tags)}'])
    return device, tag


def _meaning(device: DeviceConfig, tag: str) -> str:
    written = device.tags[tag]
    unit = "no unit" if written.unit == "1" else f"unit {written.unit}"
    states = f"; {scalar(written.states)}" if written.states else ""
    return f"{_KINDS[written.kind]}, {unit}{states}"


def _template(config: Config, device: DeviceConfig, tag: str) -> Iterator[tuple[str, str]]:
    if device.template is None:
        return
    facts = Models(config.path).facts(device.template)
    if facts is None:
        return
    if facts.verified:
        mark = "verified: read back from a device, or two sources agree"
    else:
        mark = "not verified: compare one value with the display before relying on it"
    own = "" if tag in facts.tags else "; this tag is the plant's own, not of the template"
    values = {
        "primary": "the meter applies its transformer ratios itself",
        "secondary": "values are behind the transformers: ct and pt are applied here",
    }[facts.values]
    note = f"\n{facts.note}" if facts.note else ""
    model = f"{device.template}: {facts.maker} {facts.model}; {mark}{own}"
    yield "template", f"{model}\n{values}{note}\nsource: {facts.source}"


def _stream(device: DeviceConfig, group: Group, tag: str, together: int) -> str:
    written = device.tags[tag]
    others = "" if together == 1 else f", with {together - 1} other tag" + "s" * (together > 2)
    if group.period is None:
        return f"{group.schema.stream}, pushed by the device{others}"
    why = f"class {written.class_}" if written.poll is None else "its own poll"
    return f"{group.schema.stream}, read every {group.period:g} s ({why}){others}"


def _after(device: DeviceConfig, tag: str) -> Iterator[tuple[str, str]]:
    """Yield what is done to every value, whatever the protocol."""
    written = device.tags[tag]
    if written.range is not None:
        low, high = written.range
        yield "range", f"below {low:g} or above {high:g} it is marked UNCERTAIN_RANGE and kept"
    limit = device.model_tag(tag, written).max_rate
    if limit is not None:
        yield (
            "rated",
            f"an increase of more than {limit * 3600:.6g} {written.unit}/h is not believed",
        )
    if device.flag is not None and tag != device.flag.tag:
        normal = ", ".join(map(str, device.flag.normal))
        mark = "marked UNCERTAIN_FLAGGED, and left out of figures"
        yield "flag", f"{mark}, while {device.flag.tag} is not {normal}"


def _used(config: Config, tag: str, group: Group) -> Iterator[tuple[str, str]]:
    schema = group.schema
    slot = slot_schema(schema)
    name = tag.partition(".")[2]
    integer = "i" if schema.tags[schema.index[name]].kind is Kind.STATE else ""
    yield "MQTT", f"topic edge/{config.site.id}/{schema.stream}, v.{name}"
    field = name if name != "quality" else "quality.value"
    series = f"sample,device={schema.owner},site={config.site.id},stream={schema.name}"
    yield "InfluxDB", f"{series} {field}=…{integer}"
    used = [
        f"{metric}: {'.'.join(map(str, reference.path))}"
        + (f", windows {' '.join(kpi.windows)}" if kpi.windows else "")
        for metric, kpi in config.every_metric.items()
        for reference in kpi.references()
        if reference.tag == tag
    ]
    yield "metrics", "\n".join(used) if used else "none uses it"
    sinks = [
        f"{sink} ({written.kind})" + _pattern(written.streams, schema.stream)
        for sink, written in config.sinks.items()
        if written.takes(schema)
    ]
    yield "sinks", ", ".join(sinks) if sinks else "none takes it"
    yield "history", f"per minute as {slot.stream} in the local history and on the dashboard"


def _pattern(patterns: tuple[str, ...], stream: str) -> str:
    found = [p for p in patterns if fnmatchcase(stream, p)]
    return f" by {scalar(found[0])}" if found else ""
