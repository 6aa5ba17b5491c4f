"""The leader sheet of a boundary with everything in it, from the rows that the metric made."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import orjson
import pytest

from edge_agent.check import summary
from edge_agent.clock import SECOND
from edge_agent.config import Config, load
from edge_agent.errors import ConfigError
from edge_agent.model import Quality, SampleBlock
from edge_agent.report import write_leader
from edge_agent.reports.period import Period
from tests.metrics.plants import run
from tests.reports.clinker import ZONE, store

PLANT = """
site: {id: mill, name: 厂, timezone: Asia/Shanghai}
data: .
devices:
  m:
    connect: modbus+tcp://127.0.0.1:5020?unit=1
    tags:
      kwh: {at: hr40001, type: u32, unit: kWh, kind: counter}
      sun: {at: hr40003, type: u32, unit: kWh, kind: counter}
      sent: {at: hr40005, type: u32, unit: kWh, kind: counter}
      coal: {at: hr40007, type: u32, unit: kg, kind: counter}
      steam: {at: hr40009, type: u32, unit: t, kind: counter}
      water: {at: hr40011, type: u32, unit: t, kind: counter}
      bags: {at: hr40013, type: u32, unit: "{bag}", kind: counter}
      p: {at: hr40015, type: f32, unit: bar}
      t: {at: hr40017, type: f32, unit: "°C"}
metrics:
  mill:
    type: energy
    product: cement-clinker
    output: {tags: [m.bags], factor: 0.05, unit: t}
    inputs:
      electricity: [m.kwh]
      raw-coal:
        tags: [m.coal]
        lhv: {2026-01-01: 23.1 MJ/kg, 2026-02-01: 22.8 MJ/kg}
        co2: bituminous-coal
      steam: {tags: [m.steam], pressure: m.p, temperature: m.t, feed_water: 84}
      water: {tags: [m.water], energy: false}
    returned: {electricity: [m.sent]}
    produced: {electricity: {tags: [m.sun], non_fossil: 1, added: true}}
    co2: {family: steel, electricity: cn-shandong}
    windows: [1min, 1h]
  area: {type: energy, output: m.bags, inputs: {electricity: [m.kwh]}}
"""
EACH = {"kwh": 12.5, "sun": 2.25, "sent": 1.5, "coal": 7.0, "steam": 0.25, "water": 3.0, "bags": 60}
PERIOD = Period.parse("2026-01-31T22:00/2026-02-01T02:00", ZONE)


def mill(folder: Path) -> tuple[Config, dict[str, SampleBlock]]:
    """The configuration, and the rows that its metric makes of four even hours."""
    path = folder / "mill.yaml"
    path.write_text(PLANT, "utf-8")
    config = load(path, env={})
    schema = config.plant().slot("m.kwh")
    n = (PERIOD.end_ns - PERIOD.start_ns) // (60 * SECOND)
    value = np.zeros((len(schema.tags), n))
    for i, column in enumerate(schema.tags):
        name, _, suffix = column.name.partition(".")
        value[i] = {"increment": EACH.get(name, 0), "coverage": 1.0}.get(suffix, 0.0)
    value[schema.index["p.mean"]], value[schema.index["t.mean"]] = 9.0, 200.0
    times = PERIOD.start_ns + (np.arange(n) + 1) * 60 * SECOND
    slots = SampleBlock(schema, times, value, np.zeros(value.shape, np.uint8))
    return config, run(config.metrics["mill"].build("mill", config.plant()), [slots])


def lines_of(folder: Path) -> dict[str, dict[str, str]]:
    (written,) = (folder / "out").glob("*.json")
    sections = orjson.loads(written.read_bytes())["sections"]
    return {line["key"]: line for section in sections for line in section["figures"]}


async def test_every_line_agrees_with_what_the_metric_stored(tmp_path: Path) -> None:
    config, blocks = mill(tmp_path)
    await store(tmp_path, *blocks.values())

    said = list(write_leader(config, PERIOD.text, tmp_path / "out", "mill"))
    assert not any("differs" in line for line in said)
    lines = lines_of(tmp_path)
    assert all(line.get("agrees") is not False for line in lines.values())
    minutes = Decimal(240)
    assert Decimal(lines["electricity.amount"]["value"]) == minutes * Decimal("13.25")
    coal = minutes / 2 * 7 * (Decimal("23.1") + Decimal("22.8")) / Decimal("29.3076")
    assert abs(Decimal(lines["raw-coal.kgce"]["value"]) - coal) < Decimal("1e-9")
    assert Decimal(lines["output"]["value"]) == minutes * 3
    heat = Decimal(lines["steam.measure"]["value"])  # GJ at 9 bar above the atmosphere, 200 °C
    assert heat == pytest.approx(minutes * Decimal("0.25") * Decimal("2.7443"), rel=Decimal("1e-3"))
    assert "water.kgce" not in lines
    stored = float(blocks["mill/1h"]["total_kgce"].sum())
    assert float(lines["total"]["value"]) == pytest.approx(stored, rel=1e-9)
    share = float(blocks["mill/1h"]["non_fossil_kgce"].sum()) / stored
    assert float(lines["non_fossil_share"]["value"]) == pytest.approx(share, rel=1e-9)
    assert float(lines["total_tco2"]["value"]) == pytest.approx(
        float(blocks["mill/1h"]["total_tco2"].sum()), rel=1e-9
    )


async def test_a_figure_beside_that_is_not_known_of_some_hour_is_left_out(tmp_path: Path) -> None:
    config, blocks = mill(tmp_path)
    hours = blocks["mill/1h"]
    column = hours.schema.index["total_tco2"]
    value, marks = hours.value.copy(), hours.quality.copy()
    value[column, 1], marks[column, 1] = np.nan, Quality.BAD_NOT_AVAILABLE
    await store(tmp_path, SampleBlock(hours.schema, hours.time, value, marks))

    list(write_leader(config, PERIOD.text, tmp_path / "out", "mill"))
    lines = lines_of(tmp_path)
    assert (lines["total_tco2"]["value"], lines["total_tco2"]["status"]) == (None, "partial")
    assert lines["total_gj"]["value"] is not None
    assert lines["total"]["value"] is not None


def test_check_says_what_is_no_mistake_but_should_be_known(tmp_path: Path) -> None:
    config, _ = mill(tmp_path)
    told = [line for line in summary(config) if line.startswith("attention mill")]
    assert told[0] == "attention mill: raw-coal: no coefficient is in force before 2026-01-01"
    assert told[1].startswith("attention mill: rests on rows that nobody has approved: standard_")
    assert "co2_factors:cn-shandong:average:2023:unapproved" in told[1]


def test_a_sheet_per_tonne_needs_an_output_with_a_mass(tmp_path: Path) -> None:
    config, _ = mill(tmp_path)
    with pytest.raises(ConfigError, match="its output has no mass"):
        list(write_leader(config, PERIOD.text, tmp_path, "area"))
