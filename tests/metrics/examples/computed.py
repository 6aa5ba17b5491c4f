"""The example of ``computed`` that the laws run on, and its oracle."""

from collections.abc import Callable, Mapping

from edge_agent.metrics.computed import ComputedConfig, ComputedTag
from edge_agent.metrics.emissions import EmissionsConfig
from edge_agent.model import SampleBlock
from tests.metrics import slow_rows
from tests.metrics.examples.emissions import emissions
from tests.metrics.oracle import BAD, MINUTE, NOT_AVAILABLE, Cell, Row, Rows, Span, find
from tests.metrics.plants import as_streams
from tests.metrics.slow_rows import Pair, cell, held, worse

STREAM = "kpi/raw"
SUMS = ()
RELATIVE = 1e-9  # a spread is a small difference of large numbers
OTHERS = {
    "stack": EmissionsConfig(nox="cems.nox", o2="cems.o2", o2_reference=10.0, windows=("1min",)),
}
CONFIG = ComputedConfig(
    tags={
        "ramp": ComputedTag(value="rate(em-a.power)", unit="kW/min"),
        "load": ComputedTag(
            value="where(cems.o2 > 16, em-a.power + 1 MW * cems.o2, cems.flow * 1 kW.h/Nm3)",
            unit="MW",
        ),
        "spread": ComputedTag(value="cems.nox - mean(cems.nox, 1min)"),
        "against": ComputedTag(value="cems.nox / (stack.nox - 40)"),
    }
)


def expected(rows: Mapping[str, SampleBlock], _spans: list[Span] | None) -> Rows:
    """The rows of CONFIG: at each row of ``em-a`` that every other stream has told of."""
    streams = as_streams(rows)

    def of(tag: str) -> list[Row]:
        return list(find(streams, tag).rows[tag.partition(".")[2]])

    gases = {"nox": "cems.nox"}
    minutes = emissions(streams, gases=gases, o2="cems.o2", flow=None, o2_reference=10.0)
    stack = [(end, cells["nox"][0] or 0.0, cells["nox"][1]) for end, cells in minutes.items()]
    nox, flow = of("cems.nox"), of("cems.flow")
    looked = [
        *(nox, of("cems.o2"), flow),
        slow_rows.over(nox, 5.0, 60.0, lambda values: sum(values) / len(values)),
    ]
    power = of("em-a.power")
    ramp = slow_rows.rate(power, 5.0)
    told = min(nox[-1][0], stack[-1][0] + MINUTE - 1)
    found: list[tuple[int, dict[str, Cell]]] = []
    for i, (t, value, quality) in enumerate(power):
        if t > told:
            break
        n, o, f, mean = (held(rows_of, 5.0, t) for rows_of in looked)
        rich = joined((o,), lambda a: float(a > 16))
        chosen = joined((f,), lambda a: a * 1e-3)
        if rich[0]:
            chosen = joined((cell(value, quality), o), lambda a, b: (a + 1e3 * 0.01 * b) * 1e-3)
        cells = {
            "load": rich if rich[0] is None else (chosen[0], worse(rich[1], chosen[1])),
            "ramp": cell(ramp[i][1] * 60, ramp[i][2]),
            "spread": joined((n, mean), lambda a, b: a - b),
            "against": joined((n, held(stack, 60.0, t)), against),
        }
        found.append((t, cells))
    return found


def against(one: float, other: float) -> float | None:
    return one / (other - 40) if other != 40 else None


def joined(pairs: tuple[Pair, ...], work: Callable[..., float | None]) -> Pair:
    quality = worse(*(q for _, q in pairs))
    values = [v for v, _ in pairs]
    if quality >= BAD or None in values:
        return None, quality if quality >= BAD else NOT_AVAILABLE
    return cell(work(*values), quality)
