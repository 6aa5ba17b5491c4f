"""The JSON schema of a configuration, for editors: ``edge-agent check --schema``."""

from functools import reduce
from operator import or_
from typing import cast

from pydantic import create_model

from edge_agent.config.config import Retention, Shifts, SiteConfig, Web
from edge_agent.config.entries import STRICT, Registry
from edge_agent.metrics.base import QualityLimits
from edge_agent.units import Duration

Json = dict[str, object]


def json_schema(registry: Registry | None = None) -> Json:
    """Return the JSON schema (2020-12) of a plant's file.

    A device's class follows from the scheme of ``connect``; a KPI's and a sink's from ``type``.
    A tag's ``at`` is not required here, because a template may give it.
    """
    known = registry or Registry.installed()
    metrics = tuple(kind for kind in known.metrics if kind.section == "metrics")
    alarms = tuple(kind for kind in known.metrics if kind.section == "alarms")
    root = create_model(
        "Configuration",
        __config__=STRICT,
        site=(SiteConfig, ...),
        data=(str, "data"),
        retention=(Retention, Retention()),
        devices=(_named(known.devices), ...),
        shifts=(Shifts, Shifts()),
        quality=(QualityLimits, QualityLimits()),
        metrics=(_named(metrics), {}),
        alarms=(_named(alarms), {}),
        sinks=(_named(known.sinks), {}),
        web=(Web, Web()),
        commit=(Duration | None, None),
    )
    schema = root.model_json_schema()
    definitions = cast("dict[str, Json]", schema.get("$defs", {}))
    for kind in known.devices:
        key = cast("Json", definitions[kind.__name__]["properties"])["connect"]
        cast("Json", key)["pattern"] = f"^({'|'.join(map(_escaped, kind.schemes))})://|\\$\\{{"
    types = {kind.__name__: kind.kind for kind in metrics}
    types |= {kind.__name__: kind.kind for kind in known.sinks}
    for name, written in types.items():
        definition = definitions[name]
        properties = cast("Json", definition["properties"])
        definition["properties"] = {"type": {"const": written}} | properties
        definition["required"] = ["type", *cast("list[str]", definition.get("required", []))]
    definitions.get("TagConfig", {}).pop("required", None)
    _drop_defaults(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _named(kinds: tuple[type[object], ...]) -> type[object]:
    """Return the type of a mapping from names to one of some classes."""
    if not kinds:
        return dict[str, object]
    union = reduce(or_, kinds)
    return dict[str, union]  # type: ignore[valid-type]  # a union made at run time


def _escaped(scheme: str) -> str:
    return scheme.replace("+", "\\+").replace(".", "\\.")


def _drop_defaults(schema: object) -> None:
    """Take out defaults that a person writes otherwise: durations, sizes."""
    if isinstance(schema, dict):
        if schema.get("type") == "string" and not isinstance(schema.get("default", ""), str):
            del schema["default"]
        if isinstance(schema.get("default"), dict | float) and "type" not in schema:
            del schema["default"]
        for part in schema.values():
            _drop_defaults(part)
    elif isinstance(schema, list):
        for part in schema:
            _drop_defaults(part)
