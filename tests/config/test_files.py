"""The configurations that come along."""

import re
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from edge_agent.config import Config, Registry, data_dir, load
from edge_agent.config.config import Retention, Shifts, SiteConfig, Web
from edge_agent.config.loading import SECTIONS
from edge_agent.config.templates import Limits, Template
from edge_agent.config.words import written
from edge_agent.metrics.base import QualityLimits

REFERENCE = data_dir() / "reference.yaml"
SECRETS = {
    "MQTT_PASSWORD": "a", "PLC_PASSWORD": "b", "INFLUX_TOKEN": "c", "INFLUX_PASSWORD": "d"
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(data_dir().glob("*.yaml")), ids=lambda path: path.name)
def test_a_configuration_that_comes_along_has_no_mistake(path: Path) -> None:
    assert load(path, env=SECRETS).devices


def test_the_demo_is_read_in_half_a_second() -> None:
    start = time.perf_counter()
    config = load(data_dir() / "demo.yaml", env={})
    assert time.perf_counter() - start < 0.5
    assert len(config.devices) >= 10


def uncommented() -> str:
    """Return the reference with every option that is commented out taken in."""
    return re.sub(r"(?m)^( *)#(?=[^ ])", r"\1", REFERENCE.read_text("utf-8"))


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The reference with all its options in use."""
    (tmp_path / "stamps.csv").write_text("time,power\n01/02/2020 00:00,1\n01/02/2020 00:15,2\n")
    (tmp_path / "even.csv").write_text("power\n1\n2\n")
    (tmp_path / "reference.yaml").write_text(uncommented(), "utf-8")
    monkeypatch.chdir(tmp_path)
    return load(Path("reference.yaml"), env=SECRETS)


def test_every_option_of_the_reference_is_valid(whole: Config) -> None:
    known = Registry.installed()
    assert {type(device) for device in whole.devices.values()} == set(known.devices)
    assert {type(metric) for metric in whole.metrics.values()} == set(known.metrics)
    assert {type(sink) for sink in whole.sinks.values()} == set(known.sinks)


def test_options_written_as_defaults_are_the_defaults(whole: Config) -> None:
    plain = load(REFERENCE, env=SECRETS)
    assert whole.retention == plain.retention == Retention()
    assert whole.quality == plain.quality == QualityLimits()
    assert whole.web == plain.web == Web()
    tag, at_default = whole.devices["cems-kiln"].tags["so2"], plain.devices["cems-kiln"].tags["so2"]
    for name in ("scale", "offset", "ratio", "kind", "class_", "mode"):
        assert getattr(tag, name) == getattr(at_default, name), name


def options() -> Iterator[tuple[str, str]]:
    """Yield class and name of every option that a plant's file can have."""
    known = Registry.installed()
    todo: list[object] = [SiteConfig, Retention, Web, Shifts, QualityLimits]
    todo += [*known.devices, *known.metrics, *known.sinks]
    seen: set[object] = set()
    while todo:
        kind = todo.pop()
        todo += get_args(kind)
        if kind in seen or not (isinstance(kind, type) and is_dataclass(kind)):
            continue
        seen.add(kind)
        todo += get_type_hints(kind, include_extras=True).values()
        yield from ((kind.__name__, written(field.name)) for field in fields(kind))


def test_every_option_is_in_the_reference() -> None:
    text = uncommented()
    missing = [f"{kind}.{name}" for kind, name in options() if not re.search(rf"\b{name}:", text)]
    missing += [name for name in SECTIONS if not re.search(rf"(?m)^{name}:", text)]
    assert sorted(set(missing)) == []


def test_a_template_can_limit_what_a_device_can() -> None:
    devices = {field.name for kind in Registry.installed().devices for field in fields(kind)}
    assert {field.name for field in fields(Limits)} <= devices
    assert "tags" in {field.name for field in fields(Template)}
