"""What the page reads from memory."""

import time

import numpy as np

from edge_agent.live import SHARE, Standing
from edge_agent.model import Family, SampleBlock, Schema, Tag
from edge_agent.units import Unit

SCHEMA = Schema("clinker/1h", Family.ENERGY, (Tag("total_kgce", Unit.parse("kgce")),), 3600.0)


def test_open_windows_are_worked_out_for_a_small_part_of_the_time_however_many_ask() -> None:
    made: list[int] = []

    def work() -> list[SampleBlock]:
        begin = time.monotonic()
        while time.monotonic() < begin + 0.005:
            pass
        made.append(len(made))
        value = np.array([[float(len(made))]])
        return [SampleBlock(SCHEMA, np.array([len(made)]), value, np.zeros((1, 1), np.uint8))]

    standing = Standing(work)
    begin, seen = time.monotonic(), set[float]()
    while time.monotonic() < begin + 0.7:
        seen.add(float(standing.rows()[0].value[0, 0]))
    assert 2 <= len(made) <= 0.7 / (0.005 / SHARE) + 1
    assert seen == {float(i + 1) for i in made}
