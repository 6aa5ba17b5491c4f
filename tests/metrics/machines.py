"""A machine for the tests of OEE: its states, its configurations, rows worked by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_agent.metrics.machine_time import States
from edge_agent.metrics.oee import OeeConfig
from edge_agent.model import SampleBlock
from edge_agent.units import Duration
from tests.metrics.plants import PACKER
from tests.metrics.test_kpis import compute, last, rows

STATES: States = {
    "producing": (1,), "idle": (2,), "fault": (3,), "setup": (4,), "planned_stop": (5,),
    "blocked": (6,), "off": (7,),
}  # fmt: skip
PLAIN = OeeConfig(
    state="packer.state",
    states=STATES,
    produced="packer.bags",
    rejected="packer.reject",
    ideal_cycle=Duration(1.5),
    windows=("1min", "15min"),
)
MICRO = replace(PLAIN, micro_stop=Duration(120.0))


def packer(
    states: Sequence[tuple[float, float]], minutes: float = 16.0, **more: object
) -> SampleBlock:
    """Rows of a packer whose state changes at (minute, state); 20 bags a minute."""

    def state(s: float) -> float:
        return [value for minute, value in states if minute * 60 <= s][-1]

    columns = {"bags": lambda s: 1000 + s / 3, "reject": 50.0} | more
    return rows(PACKER, minutes, state=state, **columns)


def spoiled(block: SampleBlock, column: str, where: slice, quality: int) -> SampleBlock:
    """The same rows, some of one column or of ``all`` bad."""
    value, marks = block.value.copy(), block.quality.copy()
    chosen: slice | int = slice(None) if column == "all" else block.schema.index[column]
    value[chosen, where], marks[chosen, where] = np.nan, quality
    return SampleBlock(block.schema, block.time, value, marks)


def quarter(config: OeeConfig, block: SampleBlock) -> dict[str, float]:
    return last(compute(config, [block])["kpi/15min"])
