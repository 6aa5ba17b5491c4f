"""The schedule, counted at the devices: no poll late with the whole agent, no drift in an hour."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge_agent.agent import Agent
from edge_agent.clock import SECOND, VirtualClock
from edge_agent.config import load
from simulators.fleet import play as play_here
from tests.servers import Mosquitto
from tests.sick_plant import Plant, lateness, play, ticks_of

LATE = 0.050  # seconds, at the 99th percentile
HOUR = 3600


@pytest.mark.timeout(90)  # the plant starts, and then runs for twelve seconds
async def test_a_hundred_devices_each_second_are_asked_in_time(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    """With metrics, log, history and a broker; 60 links and 8 gateways with five units each."""
    plant = Plant()
    for _ in range(60):
        plant.link("modbus+tcp", "")
    for _ in range(8):
        plant.link("modbus+tcp", *[""] * 5)
    assert len(plant.devices) == 100

    energy = {"electricity": [f"{device}.energy" for device in plant.devices]}
    metric = {"type": "energy", "scope": "plant", "windows": ["1min"], "inputs": energy}
    sections = {"sinks": {"broker": {"type": "mqtt", "url": mosquitto.url}}}
    run = await play(plant, tmp_path, 12.0, {**sections, "metrics": {"works": metric}})

    late = np.concatenate([lateness(run, device) for device in plant.devices])
    ticks = [ticks_of(run.scans(device)) for device in plant.devices]
    assert all(found == list(range(found[-1] + 1)) and len(found) >= 11 for found in ticks)
    assert np.quantile(late, 0.99) < LATE
    assert len(late) >= 1100


@pytest.mark.timeout(90)  # some ten thousand scans over real sockets
async def test_polls_do_not_drift_in_an_hour(tmp_path: Path) -> None:
    """L7, peers 51: a deadline is added up from the one before, never from "now"."""
    plant = Plant()
    plant.link("modbus+tcp", "", "")
    plant.link("modbus+rtu-over-tcp", "")
    clock = VirtualClock()
    began = clock.now_ns
    async with play_here(plant.written(tmp_path), clock) as fleet:
        overlay = {"data": str(tmp_path / "data")}
        agent = Agent(load(plant.written(tmp_path, fleet.connect), overlay), clock, grace=60)
        with clock.participant():
            running = asyncio.create_task(agent.run(), name="agent")
            await agent.ready.wait()
            await clock.sleep(HOUR + 0.5)
            agent.stop()
            await running

        for device in plant.devices:
            tally = fleet.truth()[device]
            first = max(tally.asked)
            times = [t for t, n in zip(tally.times, tally.asked, strict=True) if n == first]
            grid = np.array(times, np.int64) - began
            assert tally.answered == tally.requests
            assert len(times) in {HOUR, HOUR + 1}
            assert (np.diff(grid) == SECOND).all()
    assert agent.counts().conserved
