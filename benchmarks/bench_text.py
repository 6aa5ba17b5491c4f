"""Blocks to text: what a block costs as an MQTT payload and as line protocol, per field.

    python -m benchmarks.bench_text [-o RESULT.json]

The baseline, measured in the same run, is influxdb-client's ``Point`` with one ``field()`` per tag
and ``to_line_protocol()``, as its documentation has it. Set-up is outside the timing; the figure is
the minimum of the repeats. A kiln's meter has 20 float signals; its rows come one by one (a meter
read each second) or 60 at once (a backlog). gzip is the sink's and the client's.
"""

import argparse
import gzip
import platform
import sys
import timeit
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from isal import igzip

from edge_agent.model import Family, Quality, SampleBlock, Schema, Tag
from edge_agent.sinks.lines import Lines
from edge_agent.sinks.mqtt_payload import columns
from edge_agent.sinks.mqtt_payload import rows as single
from edge_agent.units import Unit

FIELDS = 20
REPEATS = 7


def meter(rows: int, *, bad: float = 0.0) -> SampleBlock:
    """A meter's rows; a share of the values is BAD."""
    rng = np.random.default_rng(1)
    tags = tuple(Tag(f"signal_{i:02}", Unit.parse("kW")) for i in range(FIELDS))
    value = rng.normal(400.0, 50.0, (FIELDS, rows)).astype(np.float32).astype(np.float64)
    quality = np.where(rng.random((FIELDS, rows)) < bad, Quality.BAD_DEVICE, 0).astype(np.uint8)
    value[quality >= Quality.BAD] = np.nan
    time = 1_763_778_000_000_000_000 + np.arange(rows, dtype=np.int64) * 1_000_000_000
    return SampleBlock(Schema("em-kiln/raw", Family.SAMPLE, tags, 1.0), time, value, quality)


def points(block: SampleBlock) -> str:
    """The same rows through the client's own objects."""
    from influxdb_client.client.write.point import Point

    new_point: Any = Point  # the library is not annotated
    names = [tag.name for tag in block.schema.tags]
    written = []
    for i in range(len(block)):
        point = (
            new_point("sample").tag("site", "demo").tag("device", "em-kiln").tag("stream", "raw")
        )
        for name, value in zip(names, block.value[:, i].tolist(), strict=True):
            point.field(name, value)
        written.append(point.field("quality", 0).time(int(block.time[i])).to_line_protocol())
    return "\n".join(written)


def microseconds(work: Callable[[], object], fields: int) -> float:
    """Minimum of the repeats, per field."""
    timer = timeit.Timer(work)
    number, _ = timer.autorange()
    return min(timer.repeat(REPEATS, max(1, number // 4))) / max(1, number // 4) / fields * 1e6


def measure() -> dict[str, float]:
    """Microseconds per field of each way, and bytes per field."""
    results: dict[str, float] = {}
    for rows in (1, 60):
        block = meter(rows)
        fields = FIELDS * rows
        writer = Lines(block.schema, "demo")
        text = "\n".join(writer.of(block)).encode()
        assert len(text.splitlines()) == len(points(block).splitlines()) == rows
        results |= {
            f"line protocol, {rows} rows": microseconds(lambda: writer.of(block), fields),  # noqa: B023
            f"baseline: Point, {rows} rows": microseconds(lambda: points(block), fields),  # noqa: B023
            f"mqtt payload, {rows} rows": microseconds(lambda: columns(block), fields),  # noqa: B023
            f"mqtt, a message a row, {rows} rows": microseconds(lambda: single(block), fields),  # noqa: B023
            f"bytes of line protocol, {rows} rows": len(text) / fields,
            f"bytes of mqtt payload, {rows} rows": len(columns(block)) / fields,
        }
    spotted = meter(60, bad=0.1)
    writer = Lines(spotted.schema, "demo")
    results["line protocol, 60 rows, each tenth value BAD"] = microseconds(
        lambda: writer.of(spotted), FIELDS * 60
    )
    body = "\n".join(Lines(spotted.schema, "demo").of(meter(60))).encode()
    results["gzip of the sink (isal, level 1)"] = microseconds(
        lambda: igzip.compress(body, compresslevel=1), FIELDS * 60
    )
    results["baseline: gzip of the client (level 9)"] = microseconds(
        lambda: gzip.compress(body), FIELDS * 60
    )
    return {name: round(value, 3) for name, value in results.items()}


def main() -> None:
    """Print a table; write the result with machine and versions where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path)
    output = parser.parse_args().output
    results = measure()
    for name, value in results.items():
        print(f"{name:48} {value:9.3f} {'B' if name.startswith('bytes') else 'µs'}/field")
    packages = ("numpy", "orjson", "influxdb-client", "isal")
    document = {
        "benchmark": "text",
        "fields": FIELDS,
        "results": results,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "versions": {name: version(name) for name in packages},
    }
    if output is not None:
        output.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
