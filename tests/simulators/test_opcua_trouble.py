"""Every trouble of the simulated OPC UA server, seen by the agent's own driver."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.clock import SECOND, PlantClock
from edge_agent.config import load
from edge_agent.drivers.base import KeepsFiles, TagConfig
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.errors import Disconnected
from edge_agent.health import LinkHealth
from edge_agent.model import Quality, SampleBlock
from edge_agent.supervisor import run_driver
from edge_agent.units import Duration
from simulators import opcua_security
from simulators.faults import Script, Trouble
from simulators.fleet import play
from simulators.opcua_server import NAMESPACE, OpcUaServer
from simulators.sources import Source
from simulators.tables import device_table
from simulators.truth import Truth

Q = Quality
POLLED, PUSHED = "nsu=urn:demo:plant;s=M.Polled", "nsu=urn:demo:plant;s=M.Pushed"
TABLE = {
    "tags": {
        "polled": {"at": POLLED},
        "pushed": {"at": PUSHED, "mode": "subscribe"},
    }
}
AHEAD = 9.0  # s in which the server starts; the script's time begins then
# kind, begin, end, options; what the polled and the pushed tag are meanwhile. A pushed stream has a
# row each five seconds: it may have none in a short outage.
SPELLS: list[tuple[str, float, float, dict[str, object], Quality, Quality | None]] = [
    ("silence", 1.0, 3.5, {}, Q.BAD_NO_ANSWER, None),
    ("reset", 6.5, 8.0, {}, Q.BAD_NO_ANSWER, None),
    ("restart", 11.0, 12.5, {}, Q.BAD_NO_ANSWER, None),
    ("half-open", 15.5, 18.0, {"new": "silent"}, Q.BAD_NO_ANSWER, None),
    ("garbage", 21.0, 22.5, {}, Q.BAD_NO_ANSWER, None),
    ("corrupt", 25.5, 27.0, {}, Q.BAD_NO_ANSWER, None),
    ("delay", 30.0, 33.0, {"by": 1.5}, Q.BAD_NO_ANSWER, None),
    ("exception", 36.0, 37.5, {}, Q.BAD_DEVICE, Q.BAD_DEVICE),
    ("hole", 39.5, 41.0, {"at": POLLED}, Q.BAD_ADDRESS, Q.GOOD),
    ("frozen", 43.0, 46.0, {}, Q.BAD_NO_ANSWER, Q.BAD_NO_ANSWER),
]


class Watch:
    """The rows of a supervised driver, by ``clock``: time since the script's start, tag, row."""

    def __init__(self, clock: PlantClock, start: int) -> None:
        self._clock, self._start = clock, start
        self.seen: list[tuple[float, str, float, int]] = []

    @property
    def now(self) -> float:
        return (self._clock.wall_ns() - self._start) / SECOND

    def push(self, block: SampleBlock, *, substituted: bool = False) -> None:
        del substituted
        for column, tag in enumerate(block.schema.tags):
            value, quality = block.value[column, -1], block.quality[column, -1]
            self.seen.append((self.now, tag.name, float(value), int(quality)))

    def first(self, tag: str, quality: int, after: float) -> float:
        found = [t for t, name, _, q in self.seen if (name, q) == (tag, quality) and t >= after]
        return found[0] if found else float("inf")


@pytest.mark.timeout(120)  # ten kinds of trouble, played in real time
async def test_every_trouble_ends_as_quality_and_is_over_within_two_seconds() -> None:
    """L3: a late, spoiled or frozen answer is never a good value."""
    start = time.time_ns() + round(AHEAD * SECOND)
    clock = PlantClock(start, time.monotonic_ns() + round(AHEAD * SECOND))
    begin = start
    source = Source({
        "polled": ("1", lambda t: (t - begin) / SECOND),
        "pushed": ("1", lambda t: (t - begin) / SECOND),
    })  # fmt: skip
    script = Script([
        Trouble("plc", kind, first, last, **options)  # type: ignore[arg-type]
        for kind, first, last, options, *_ in SPELLS
    ])  # fmt: skip
    counted = Truth()
    server = OpcUaServer(
        [(device_table("plc", TABLE), source)], clock, script=script, start=start, counted=counted
    )
    port = await server.start()
    assert clock.wall_ns() < start
    device = OpcUaDevice(
        connect=f"opc.tcp://127.0.0.1:{port}",
        timeout=Duration(1.0),
        publish=Duration(0.2),
        frozen_after=Duration(0.8),
        poll=Duration(0.25),
        tags={
            "polled": TagConfig(at=POLLED),
            "pushed": TagConfig(at=PUSHED, mode="subscribe"),
        },
    )
    watch = Watch(clock, start)
    driver = OpcUaDevice.build({"plc": device}, clock)
    task = asyncio.create_task(
        run_driver(LinkHealth("plc", ("plc",)), driver, watch.push, clock, 0.1)
    )
    try:
        await asyncio.sleep(SPELLS[-1][2] + 3.0 - watch.now)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        await server.close()
    told = []
    for kind, first, last, _, polled, pushed in SPELLS:
        for tag, expected in (("polled", polled), ("pushed", pushed)):
            back = watch.first(tag, Q.GOOD, last)
            bad = first if expected is None else watch.first(tag, expected, first)
            told.append((kind, tag, round(bad - first, 2), round(back - last, 2)))
    late = [t for t in told if t[2] > 2.0 or t[3] > 2.0]
    assert not late, told
    wrong = [
        row for row in watch.seen if row[3] == Q.GOOD and not -0.1 < row[0] - row[2] < 1.6
    ]  # the value is the time at which it was so
    assert not wrong, wrong[:5]
    tally = counted.tally("plc")
    assert tally.answered > 50
    assert tally.refused >= 8


async def test_a_device_with_security_is_served_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opcua_security.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("PLC_PASSWORD", "secret")
    config = tmp_path / "plant.yaml"
    config.write_text(
        f"""
site: {{id: test}}
devices:
  plc:
    connect: opc.tcp://127.0.0.1:4840
    security: {{policy: Aes256_Sha256_RsaPss, user: edge, password: "${{PLC_PASSWORD}}"}}
    tags:
      batch: {{at: "nsu={NAMESPACE};s=M.Batch", type: text}}
      power: {{at: "nsu={NAMESPACE};s=M.Power", unit: kW, mode: subscribe}}
web: {{listen: "127.0.0.1:0"}}
""",
        encoding="utf-8",
    )
    clock = PlantClock(time.time_ns(), time.monotonic_ns())
    async with play(config, clock) as fleet:
        written = load(config, {"devices": {"plc": {"connect": fleet.connect["plc"]}}})
        plc = written.devices["plc"]
        assert isinstance(plc, OpcUaDevice)
        driver = OpcUaDevice.build({"plc": plc}, clock)
        assert isinstance(driver, KeepsFiles)
        driver.keep_in(tmp_path)
        try:
            await driver.connect()
            batch, power = [await driver.read(group) for group in driver.groups]
        finally:
            await driver.close()
        assert str(batch.text(0, 0)).startswith("Batch ")
        assert not power.quality.any()
        assert fleet.counted.tally("plc").answered == 1
        open_line = OpcUaDevice.build({"plc": replace(plc, security=None)}, clock)
        with pytest.raises(Disconnected):
            await open_line.connect()
        await open_line.close()
