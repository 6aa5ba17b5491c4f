"""The whole agent against ground truth, on a real broker, a real database and a real browser.

(a) The stored rows are what the devices say that they served. (b) Every KPI row is what a slow
oracle makes of the stored rows, and the same number stands everywhere. (c) It is near the plant's
continuous truth.
"""

import asyncio
import time
from collections import defaultdict
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest

from edge_agent.clock import PlantClock
from edge_agent.model import SampleBlock
from simulators.plant import CementPlant
from tests.metrics import oracle
from tests.metrics.examples.emissions import emissions
from tests.metrics.examples.energy import energy
from tests.metrics.examples.oee import oee
from tests.metrics.stack_oracle import Stack, hours
from tests.run_of_demo import (
    KPIS,
    LENGTH,
    MINUTE,
    SEED,
    SPEED,
    START,
    WINDOWS,
    Run,
    columns,
    play,
    readings,
    rows,
    stored,
    tables,
)
from tests.servers import Influx, Mosquitto

pytestmark = pytest.mark.timeout(150)  # one run of three minutes of plant time, shared by all

MILLS = ("em-kiln", "em-raw-mill", "em-coal-mill", "em-cooler")
KILOGRAM = 23.1 / 29.3076  # kgce per kg of the demo's coal
LENGTHS = {"1min": 1, "15min": 15, "1h": 60}
EXACT = {"electricity", "raw-coal", "output_t", "produced", "good", "coverage", "estimated"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    with Mosquitto(folder / "broker") as broker, Influx(folder / "influx") as influx:
        return asyncio.run(play(folder, broker, influx))


@pytest.fixture(scope="module")
def plant() -> CementPlant:
    return CementPlant(SEED, PlantClock(START, time.monotonic_ns(), SPEED))


def test_the_demo_ends_by_itself_and_has_lost_nothing(run: Run) -> None:
    assert run.status == 0
    text = "\n".join(run.said)
    assert "lost        0 rows" in text
    assert "substituted 0 rows" in text


# ---- (a) registers ---------------------------------------------------------------------------


def test_the_stored_rows_equal_what_was_served_value_for_value_and_in_order(run: Run) -> None:
    raw, compared = run.raw(), 0
    for device, table in tables().items():
        if table.url.scheme == "opc.tcp":
            continue
        served = readings(table, run.served(device))
        for stream in (s for s in raw if s.partition("/")[0] == device):
            for tag in columns(raw[stream].schema):
                found, given = stored(raw[stream], tag), served[tag]
                assert [v for _, v in found] == [v for _, v in given[: len(found)]], (stream, tag)
                assert len(given) - len(found) <= 1, (stream, tag)  # the scan that the stop cut
                assert all(abs(t - g) < 2e9 for (t, _), (g, _) in zip(found, given, strict=False))
                compared += len(found)
    assert compared > 20_000


def test_polled_opc_ua_values_equal_what_was_served(run: Run) -> None:
    block = run.raw()["plc-kiln/raw"]
    nodes = {tag.name: tag.at.partition(";s=")[2] for tag in tables()["plc-kiln"].tags}
    for tag in columns(block.schema):
        given = [float(str(s["value"])) for s in run.served("plc-kiln") if s["node"] == nodes[tag]]
        found = [v for _, v in stored(block, tag)]
        assert found
        assert found == given[-len(found) :] or found == given[-len(found) - 1 : -1], tag


def test_no_change_that_was_pushed_is_missing_and_each_has_its_own_time(run: Run) -> None:
    block = run.raw()["plc-packer/raw.sub"]
    nodes = {tag.name: tag.at.partition(";s=")[2] for tag in tables()["plc-packer"].tags}
    for tag in columns(block.schema):
        found = _changes(stored(block, tag))
        given = _changes(
            [
                (int(str(s["source_ns"])), float(str(s["value"])))
                for s in run.served("plc-packer")
                if s["node"] == nodes[tag]
            ]
        )
        begin = [v for _, v in given].index(found[0][1])
        expected = given[begin : begin + len(found)]
        assert [v for _, v in found] == [v for _, v in expected], tag
        assert len(given) - begin - len(found) <= 3, tag  # written while the agent stopped
        if tag == "state":
            assert len(found) >= 2
        late = [t - g for (t, _), (g, _) in zip(found[1:], expected[1:], strict=True)]
        assert all(-1_000 <= d < 6e9 for d in late), tag


def _changes(values: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [v for i, v in enumerate(values) if i == 0 or v[1] != values[i - 1][1]]


# ---- (b) oracle ------------------------------------------------------------------------------


def _streams(run: Run) -> list[tuple[str, oracle.Stream]]:
    found = []
    for stream, block in run.raw().items():
        signals = {
            tag.name: oracle.Signal(tag.kind.value, tag.modulus, tag.max_rate, tag.resolution)
            for tag in block.schema.tags
        }
        values = {
            name: [
                (int(t), float(v), int(q))
                for t, v, q in zip(
                    block.time, block[name], block.quality[block.schema.index[name]], strict=True
                )
            ]
            for name in signals
        }
        found.append(
            (stream.partition("/")[0], oracle.Stream(block.schema.period, signals, values))
        )
    return found


def _expected(
    streams: list[tuple[str, oracle.Stream]], kpi: str, spans: list[oracle.Span] | None
) -> oracle.Result:
    if kpi == "clinker":
        electricity = [(f"{mill}.active_energy_import", 1.0) for mill in MILLS]
        electricity.append(("em-whr.active_energy_export", -1.0))
        carriers = {
            "electricity": (0.1229, 0.0036, electricity),
            "raw-coal": (KILOGRAM, 0.0231, [("scale-coal.mass", 1000.0)]),
        }
        return energy(streams, carriers, ("scale-clinker.mass", 1.0), spans)
    if kpi == "packer":
        return oee(
            streams,
            state="plc-packer.state",
            states={"producing": [1], "idle": [2], "fault": [3], "setup": [4], "planned_stop": [5]},
            produced="plc-packer.bags",
            rejected="plc-packer.reject",
            ideal_cycle=1.5,
            spans=spans,
        )
    marks = {"fault": [4], "maintenance": [2], "calibration": [3]}
    return emissions(
        streams,
        gases={gas: f"cems-kiln.{gas}" for gas in ("so2", "nox", "pm")},
        o2="cems-kiln.o2",
        flow="cems-kiln.flow",
        flags=[("cems-kiln.flag", [0], marks)],
        o2_reference=10.0,
        spans=spans,
    )


def _of_stack(streams: list[tuple[str, oracle.Stream]]) -> oracle.Result:
    """Return the hours of the stack, judged by the limits that its configuration names."""
    allowed = {"so2": 50.0, "nox": 100.0, "pm": 10.0}
    limits = {gas: lambda _start, limit=limit: limit for gas, limit in allowed.items()}
    stack = Stack(tuple(allowed), ZoneInfo("Asia/Shanghai"), hourly=limits)
    return hours(stack, _expected(streams, "kiln-stack", None))


@pytest.mark.parametrize("kpi", KPIS)
def test_every_figure_equals_the_oracle_fed_with_the_stored_rows(run: Run, kpi: str) -> None:
    streams = _streams(run)
    for window in WINDOWS:
        block = run.kpi(f"{kpi}/{window}")
        length = LENGTHS[window] * MINUTE
        expected = _expected(streams, kpi, [(int(t) - length, int(t)) for t in block.time])
        if (kpi, window) == ("kiln-stack", "1h"):  # an hour has more than its minutes
            every = _of_stack(streams)
            expected = {end: every[end] for end in expected}
        assert set(expected) == {int(t) for t in block.time}
        for end, cells in rows(block):
            for column, (value, quality) in cells.items():
                wanted, mark = expected[end][column]
                where = (kpi, window, end, column)
                assert quality == mark, where
                if column in EXACT or wanted is None:
                    assert value == wanted, where
                else:
                    assert value == pytest.approx(wanted, rel=1e-6), where


def test_full_windows_are_complete(run: Run) -> None:
    for kpi in KPIS:
        block = run.kpi(f"{kpi}/1min")
        assert len(block) >= 3
        full = block["coverage"][1:]
        assert (full > 0.98).all(), (kpi, full)
        assert (block["estimated"][1:] == 0).all()


# ---- the same number everywhere --------------------------------------------------------------


def _streams_of_kpis() -> list[str]:
    return [f"{kpi}/{window}" for kpi in KPIS for window in WINDOWS]


@pytest.mark.parametrize("stream", _streams_of_kpis())
def test_the_same_figures_stand_in_the_broker(run: Run, stream: str) -> None:
    found: dict[int, dict[str, float | None]] = {}
    for message in run.messages:
        if message.topic == f"edge/demo-cement/{stream}":
            body = message.json
            for i, t in enumerate(body["t"]):
                assert t * 1_000_000 not in found, "published twice"
                found[t * 1_000_000] = {name: column[i] for name, column in body["v"].items()}
    assert found == {t: _values(cells) for t, cells in rows(run.kpi(stream))}


@pytest.mark.parametrize("stream", _streams_of_kpis())
def test_the_same_figures_stand_in_the_database(run: Run, stream: str) -> None:
    kpi, window = stream.split("/")
    block = run.kpi(stream)
    found = {
        int(str(row["time"])): row
        for row in run.measured[block.schema.family.value]
        if row["metric"] == kpi and row["window"] == window
    }
    assert set(found) == {int(t) for t in block.time}
    for end, cells in rows(block):
        for name, value in _values(cells).items():
            assert found[end].get(name) == value, (stream, end, name)
        assert found[end]["quality"] == max(q for _, q in cells.values())
        assert found[end]["site"] == "demo-cement"
        assert found[end]["schema"] == block.schema.id


def test_the_same_figures_stand_on_the_page(run: Run) -> None:
    shown = 0
    for stream in _streams_of_kpis():
        expected = {t: _values(cells) for t, cells in rows(run.kpi(stream))}
        for (where, column, end), value in run.cells.items():
            if where == stream:
                assert expected[end][column] == value, (stream, column)
                shown += 1
    assert shown > 50


def test_the_page_shows_the_running_windows_marked_as_such(run: Run) -> None:
    assert {stream.partition("/")[0] for stream, _ in run.running} >= set(KPIS)


def test_every_raw_row_is_in_the_broker_and_in_the_database(run: Run) -> None:
    arrived: dict[str, list[tuple[int, dict[str, float | None]]]] = defaultdict(list)
    prefix = "edge/demo-cement/"
    for message in run.messages:
        stream = message.topic.removeprefix(prefix)
        if "/raw" in stream:
            body = message.json
            for i, t in enumerate(body["t"]):
                arrived[stream].append((t, {name: c[i] for name, c in body["v"].items()}))
    for stream, block in run.raw().items():
        expected = [(t // 1_000_000, _values(cells)) for t, cells in rows(block)]
        assert arrived[stream] == expected, stream
        _in_database(run, block)


def _in_database(run: Run, block: SampleBlock) -> None:
    device, name = block.schema.owner, block.schema.name
    found = {
        int(str(row["time"])): row
        for row in run.measured["sample"]
        if (row["device"], row["stream"]) == (device, name)
    }
    assert set(found) == {int(t) for t in block.time}
    last = dict(rows(block))  # of rows with one time the last one stands
    for t, cells in last.items():
        for tag, value in _values(cells).items():
            if value is not None:
                assert found[t][tag] == value, (block.schema.stream, t, tag)


def _values(cells: dict[str, tuple[float | None, int]]) -> dict[str, float | None]:
    return {name: value for name, (value, _) in cells.items()}


# ---- (c) the plant's continuous truth --------------------------------------------------------


def _full(run: Run, stream: str) -> list[tuple[int, int, dict[str, float | None]]]:
    """Start, end and values of the windows that lie wholly in the run."""
    length = LENGTHS[stream.partition("/")[2]] * MINUTE
    found = [(t - length, t, _values(cells)) for t, cells in rows(run.kpi(stream))]
    return [window for window in found if window[0] > START + 2_000_000_000]


def test_energy_is_within_a_register_step_and_a_poll_of_the_truth(
    run: Run, plant: CementPlant
) -> None:
    windows = _full(run, "clinker/1min")
    assert len(windows) >= 2
    allowed = 0.0
    for device in (*MILLS, "em-whr"):
        (tag,) = [
            tag
            for tag in tables()[device].tags
            if tag.name
            == ("active_energy_export" if device == "em-whr" else "active_energy_import")
        ]
        step = 0.0 if tag.type == "f64" else float(tag.factor)
        rated = {"em-kiln": 4000, "em-raw-mill": 6500, "em-coal-mill": 2000, "em-cooler": 4000}
        allowed += step + rated.get(device, 9500) * 5.0 / 3600.0
    for start, end, values in windows:
        truth = sum(plant.energy_kwh(mill, start, end) for mill in MILLS)
        truth -= plant.energy_kwh("em-whr", start, end)
        assert values["electricity"] is not None
        assert abs(values["electricity"] - truth) <= allowed
        coal, clinker = (
            plant.mass_t(scale, start, end) for scale in ("scale-coal", "scale-clinker")
        )
        assert values["raw-coal"] == pytest.approx(coal * 1000.0, abs=1.0 + 27100 / 3600)
        assert values["output_t"] == pytest.approx(clinker, abs=0.001 + 208.3 / 3600)


def test_stack_gas_is_within_half_a_percent_of_the_truth(run: Run, plant: CementPlant) -> None:
    for start, end, values in _full(run, "kiln-stack/1min"):
        for gas in ("so2", "nox", "pm", "o2"):
            truth = plant.gas_mean(gas, start, end)
            assert values[gas] == pytest.approx(truth, rel=0.005), gas
        corrected = values["nox_corrected"]
        nox, o2 = plant.gas_mean("nox", start, end), plant.gas_mean("o2", start, end)
        assert corrected == pytest.approx(nox * 11.0 / (21.0 - o2), rel=0.005)


def test_times_and_counts_of_the_packer_are_the_truth(run: Run, plant: CementPlant) -> None:
    for start, end, values in _full(run, "packer/1min"):
        truth = plant.state_seconds(start, end)
        busy = sum(truth.get(state, 0.0) for state in (1, 2, 3, 4))
        for column, expected in {"apt_s": truth.get(1, 0.0), "pbt_s": busy}.items():
            assert values[column] == pytest.approx(expected, abs=0.005 * 60), column
        assert values["produced"] == pytest.approx(plant.bags(start, end), abs=2.0)


def test_the_run_was_as_long_as_asked_for(run: Run) -> None:
    ends = [int(t) for t in run.kpi("clinker/1min").time]
    begin = -(-START // MINUTE) * MINUTE
    assert ends[-1] == (begin + LENGTH.ns) // MINUTE * MINUTE
    assert urlsplit(run.said[0].split()[-1]).port
