"""A baseline that is configured when its period is over: the agent learns it from the history."""

import asyncio
import csv
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from edge_agent.agent import Agent
from edge_agent.clock import VirtualClock
from edge_agent.config import load
from edge_agent.sinks.history import History

BEGIN = datetime(2026, 3, 2, 0, tzinfo=ZoneInfo("Asia/Shanghai"))
PLANT = """
site: {{id: works, timezone: Asia/Shanghai}}
web: {{listen: "127.0.0.1:0"}}
devices:
  mill:
    connect: "replay+csv://{file}"
    time: {{column: time, format: iso, label: start}}
    poll: 60s
    tags:
      energy: {{at: energy, unit: kWh, kind: counter}}
      load: {{at: load, unit: t/h}}
metrics:
  mill-energy: {{type: energy, inputs: {{electricity: [mill.energy]}}, windows: [1h]}}
"""
LATER = """
  mill-saved:
    type: baseline
    energy: mill-energy.electricity_1h
    variables: {{load: mill.load}}
    baseline: {{from: "2026-03-02T00:00", to: "2026-03-02T05:00"}}
    windows: [1h]
"""


def record(path: Path, hours: int) -> None:
    """Write hours of 10 kWh and 2 kWh per t/h of load, after the fifth a tenth less of both."""
    energy = 0.0
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time", "energy", "load"])
        for minute in range(hours * 60):
            load = 20 + 7 * (minute // 60 % 4)
            table.writerow([(BEGIN + timedelta(minutes=minute)).isoformat(), f"{energy:.6f}", load])
            energy += (10 + 2 * load) / 60 * (0.9 if minute >= 300 else 1.0)


async def play(folder: Path, text: str, hours: int, start: float) -> None:
    record(folder / "mill.csv", hours)
    plant = folder / "plant.yaml"
    plant.write_text(text.format(file=folder / "mill.csv"), "utf-8")
    clock = VirtualClock(round((BEGIN + timedelta(hours=start)).timestamp()) * 10**9)
    agent = Agent(load(plant), clock, grace=60)
    running = asyncio.create_task(agent.run(), name="agent")
    await agent.ready.wait()
    link = agent.health.links["mill"]
    while link.rows_read < (hours - start) * 60 - 5 and not running.done():  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.01)
    agent.stop()
    await running


def test_a_baseline_may_lie_before_the_day_on_which_it_is_configured(tmp_path: Path) -> None:
    asyncio.run(play(tmp_path, PLANT, 6, 0))
    asyncio.run(play(tmp_path, PLANT + LATER, 9, 6))
    found = History(tmp_path / "data" / "history.db").rows("mill-saved/1h", 0, 1 << 62)
    assert found is not None
    assert found["n"].tolist() == [5.0] * len(found)
    assert len(found) >= 2
    np.testing.assert_allclose(found["b_load"], 2.0, rtol=0.02)
    np.testing.assert_allclose(found["enpi"], 0.9, rtol=0.02)
