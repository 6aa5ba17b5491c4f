"""The simulated DL/T 645 and CJ/T 188 meters behave as a script has them, and count it."""

from pathlib import Path

import pytest

from edge_agent.clock import SECOND, VirtualClock
from edge_agent.config import load
from edge_agent.drivers.base import DeviceConfig, Driver
from edge_agent.errors import NoAnswer
from edge_agent.model import Quality
from simulators.faults import read_script
from simulators.fleet import Fleet, play
from tests.drivers.lines import Rows, connected, read

PLANT = """\
site: {id: a}
devices:
  em: {connect: "dlt645+tcp://h:1?address=42", timeout: 300ms, tags: {
    energy: {at: "di:00010000", unit: kWh, kind: counter}, power: {at: "di:02030000", unit: kW}}}
  wm: {connect: "cjt188+tcp://h:2?address=43&di=1F90", timeout: 300ms, tags: {
    volume: {at: volume, unit: m3, kind: counter}, settled: {at: volume_settled, unit: m3}}}
"""


async def readings(
    folder: Path, script: str, seconds: list[float], device: str
) -> tuple[list[Rows | None], Fleet]:
    """Read a device at some seconds after the start; None where it does not answer."""
    plant, faults = folder / "plant.yaml", folder / "faults.yaml"
    plant.write_text(PLANT)
    faults.write_text(script)
    clock = VirtualClock()
    begin, found = clock.now_ns, list[Rows | None]()
    async with play(plant, clock, script=read_script(faults)) as fleet:
        config: DeviceConfig = load(plant, env={}, overlay={
            "devices": {name: {"connect": at} for name, at in fleet.connect.items()},
        }).devices[device]  # fmt: skip
        driver: Driver = type(config).build({device: config}, clock)
        async with connected(driver):
            for second in seconds:
                clock.now_ns = begin + round(second * SECOND)
                try:
                    found.append(await read(driver, f"{device}/raw"))
                except NoAnswer:
                    found.append(None)
    return found, fleet


async def test_a_hole_is_data_that_the_meter_does_not_have(tmp_path: Path) -> None:
    found, fleet = await readings(
        tmp_path, "[{device: em, kind: hole, at: 'di:00010000', from: 0s}]", [1, 2], "em"
    )

    assert [[quality for _, quality in rows or []] for rows in found] == [
        [Quality.BAD_ADDRESS, Quality.GOOD]
    ] * 2
    assert (fleet.truth()["em"].refused, fleet.truth()["em"].answered) == (1, 2)


@pytest.mark.parametrize("device", ["em", "wm"])
async def test_a_silence_is_counted_and_ends(device: str, tmp_path: Path) -> None:
    script = f"[{{device: {device}, kind: silence, from: 10s, to: 20s}}]"
    found, fleet = await readings(tmp_path, script, [1, 11, 21], device)

    assert [rows is None for rows in found] == [False, True, False]
    assert fleet.truth()[device].silent == 1


@pytest.mark.parametrize("device", ["em", "wm"])
async def test_a_counter_is_reset_and_a_meter_frozen(device: str, tmp_path: Path) -> None:
    script = (
        f"[{{device: {device}, kind: counter-reset, from: 100s}},"
        f" {{device: {device}, kind: frozen, from: 200s, to: 300s}}]"
    )
    seconds: list[float] = [99, 101, 199, 201, 299, 301]
    found, _ = await readings(tmp_path, script, seconds, device)
    values = [(rows or [(None, 0)])[0][0] or 0.0 for rows in found]

    assert values[1] < 3 < values[0]
    assert values[2] > values[1]
    assert values[3] == values[4] < values[5]


@pytest.mark.parametrize(("device", "at"), [("em", "hr:0"), ("em", "di:zz"), ("wm", "di:00010000")])
async def test_a_tag_that_the_simulator_does_not_have_is_named(
    device: str, at: str, tmp_path: Path
) -> None:
    plant = tmp_path / "plant.yaml"
    scheme = "dlt645" if device == "em" else "cjt188"
    row = f"{{connect: '{scheme}+tcp://h?address=1', tags: {{x: {{at: '{at}'}}}}}}"
    plant.write_text(f"devices: {{{device}: {row}}}")
    with pytest.raises(ValueError, match=device):
        async with play(plant, VirtualClock()):
            pass
