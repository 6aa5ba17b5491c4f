"""YAML that a person pastes into the plant's file: one line per tag, as the examples have it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from edge_agent.drivers.base import TagConfig
from edge_agent.units import Duration

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./*+-]*")  # needs no quotes in any version of YAML
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def scalar(value: object) -> str:
    """Return one value as YAML, on one line."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if isinstance(value, float):
        return length(value) if isinstance(value, Duration) else number(value)
    text = str(value)
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if is_plain or isinstance(value, int) else json.dumps(text, ensure_ascii=False)


def number(value: float) -> str:
    """Return the shortest decimal number that is read as the same float64."""
    if value == int(value) and abs(value) < 1e16:
        return str(int(value))
    return repr(value)


def length(seconds: float) -> str:
    """Return a duration as a person writes it."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        text = f"{round(seconds / size)}{unit}"
        if seconds >= size and Duration.parse(text) == seconds:
            return text
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def key(name: str) -> str:
    """Return a field's name as it is written in the file: ``class_`` is ``class``."""
    return name.rstrip("_")


def differing(tag: TagConfig, below: TagConfig | None) -> dict[str, object]:
    """Return what must be written so that the tag comes out, over a template's tag or over none.

    A value that is to be none although the template has one is written null.
    """
    usual = TagConfig(at="") if below is None else below
    return {
        key(f.name): getattr(tag, f.name)
        for f in fields(TagConfig)
        if getattr(tag, f.name) != getattr(usual, f.name) or (below is None and f.name == "at")
    }


def device_lines(
    name: str,
    keys: Mapping[str, object],
    tags: Mapping[str, Mapping[str, object] | None],
    notes: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield one device, indented to stand below ``devices:``.

    tags   name -> what is written of it; None takes a template's tag out
    notes  comments: by the name of a key or tag
    """
    said = notes or {}
    yield f"  {scalar(name)}:" + _comment(said.get(""))
    for k, value in keys.items():
        yield f"    {k}: {scalar(value)}" + _comment(said.get(k))
    if not tags:
        return
    yield "    tags:"
    widest = max(len(scalar(tag)) for tag in tags)
    for tag, written in tags.items():
        space = " " * (widest - len(scalar(tag)))
        yield f"      {scalar(tag)}: {space}{scalar(written)}" + _comment(said.get(tag))


def _comment(text: str | None) -> str:
    return f"   # {text}" if text else ""


def identifier(words: Sequence[str], taken: Mapping[str, object]) -> str:
    """Return a device's or tag's name of some words that is not taken yet."""
    base = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-") or "device"
    name, n = base, 2
    while name in taken:
        name, n = f"{base}-{n}", n + 1
    return name
