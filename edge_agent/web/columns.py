"""Rows as JSON, by column: what ``/api/v1/rows`` and ``/api/v1/refused`` answer."""

from edge_agent.model import Quality, SampleBlock

MS = 1_000_000


def columns(block: SampleBlock) -> dict[str, object]:
    """Return all rows of a block; a value is None exactly where its quality is BAD."""
    schema = block.schema
    return {
        "stream": schema.stream,
        "schema": schema.id,
        "period_s": schema.period,
        "columns": [
            {"name": tag.name, "unit": tag.unit.code, "kind": tag.kind.value} for tag in schema.tags
        ],
        "rows": len(block),
        "time_ms": (block.time // MS).tolist(),
        "time_ns": [str(t) for t in block.time.tolist()],
        "value": {
            tag.name: [
                None if q >= Quality.BAD else v
                for v, q in zip(block.value[i].tolist(), block.quality[i].tolist(), strict=True)
            ]
            for i, tag in enumerate(schema.tags)
        },
        "quality": {tag.name: block.quality[i].tolist() for i, tag in enumerate(schema.tags)},
    }
