"""What is wrong with an entry, in plain words, at the place where it stands.

pydantic finds the mistakes; this module finds their places and words. Its paths contain the names
of union branches, which are not in the tree and are skipped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge_agent.config.tree import ListNode, MapNode, Node, Steps, is_null, walk
from edge_agent.errors import Fault
from edge_agent.units import Indirect

# what people write for what it is called here
_SYNONYMS = {
    "period": "poll", "interval": "poll", "cycle": "poll", "scan": "poll", "rate": "poll",
    "address": "at", "register": "at", "addr": "at", "node": "at", "nodeid": "at", "column": "at",
    "host": "connect", "ip": "connect", "endpoint": "connect", "uri": "connect", "url": "connect",
    "server": "url", "broker": "url", "connect": "url",
    "datatype": "type", "data_type": "type", "format": "type",
    "byteorder": "order", "byte_order": "order", "word_order": "order", "endian": "order",
    "factor": "scale", "multiplier": "scale", "gain": "scale", "bias": "offset",
    "units": "unit", "min": "range", "max": "range", "limits": "range",
    "rollover": "modulus", "wrap": "modulus", "hysteresis": "deadband",
    "meter": "template", "model": "template", "profile": "template",
    "current_ratio": "ct", "voltage_ratio": "pt", "vt": "pt", "power": "rated",
    "registers": "tags", "points": "tags", "signals": "tags", "variables": "tags",
    "username": "user", "login": "user", "pass": "password", "pwd": "password",
    "window": "windows", "interval_windows": "windows", "folder": "data", "storage": "data",
    "tz": "timezone", "zone": "timezone", "port": "listen", "drivers": "devices",
    "kpis": "metrics", "outputs": "sinks", "topics": "streams",
}  # fmt: skip

_WORDS = {
    "string_type": "must be text (write it in quotes)",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number, not inf or nan",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list: [a, b]",
    "list_type": "must be a list: [a, b]",
    "dict_type": "must be a mapping: {key: value}",
    "mapping_type": "must be a mapping: {key: value}",
    "dataclass_type": "must be a mapping: {key: value}",
    "none_required": "must be left out",
}
_KEYS = {"unexpected_keyword_argument", "extra_forbidden", "missing"}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def nearest(written: str, known: Iterable[str]) -> str:
    """Return `` (did you mean "poll"?)``, or which there are when nothing comes near."""
    names = list(dict.fromkeys(map(str, known)))
    meant = {name.lower(): name for name in names}
    meant = {s: t for s, t in _SYNONYMS.items() if t in names and s not in meant} | meant
    near = get_close_matches(written.lower(), meant, n=1, cutoff=0.6)
    if near:
        return f' (did you mean "{meant[near[0]]}"?)'
    if not names:
        return " (there is none)"
    return f" (there is {', '.join(names)})" if len(names) <= 12 else ""


def keys_at(kind: object, path: Sequence[object], tree: Node) -> list[str]:
    """Return the keys that are known at a path below a config class, as a person writes them.

    path  of pydantic: parts that are not in the tree choose a branch of a union by its class's name
    """
    kinds = _branches(kind)
    for i, part in enumerate(path):
        named: list[object] = [
            k for k in kinds if is_dataclass(k) and getattr(k, "__name__", "") == part
        ]
        if named:
            kinds = named
            continue
        steps = [p for p in path[: i + 1] if isinstance(p, str | int)]
        if isinstance(part, str | int) and walk(tree, steps)[1][-1:] == (part,):
            kinds = [b for k in kinds for b in _below(k, part)]
    known = [written(f.name) for k in kinds if is_dataclass(k) for f in fields(k)]
    return list(dict.fromkeys(known))


def written(name: str) -> str:
    """Return a field's name as a person writes it: ``class_`` is ``class``."""
    return name.rstrip("_")


def _branches(kind: object) -> list[object]:
    """Return the types of a union, or the type alone; without what only annotates."""
    if get_origin(kind) is Annotated:
        return _branches(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return [b for part in get_args(kind) for b in _branches(part)]
    return [kind]


def _below(kind: object, part: object) -> list[object]:
    """Return the types that may stand under one step below a type."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = {
            written(name): hint for name, hint in get_type_hints(kind, include_extras=True).items()
        }
        return _branches(hints[part]) if part in hints else []
    arguments = get_args(kind)
    origin = get_origin(kind)
    if not arguments or not isinstance(origin, type):
        return []
    if issubclass(origin, Mapping):
        return _branches(arguments[1])
    if issubclass(origin, tuple) and isinstance(part, int) and Ellipsis not in arguments:
        return _branches(arguments[part]) if part < len(arguments) else []
    return _branches(arguments[0])


def faults_of(error: ValidationError, kind: object, tree: Node) -> list[Fault]:
    """Return the mistakes of one entry.

    kind   the config class that was asked for
    tree   the entry's node
    """
    placed: dict[Steps, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        detail["loc"] = detail["loc"][1:]  # the name of the wrapper's field
        placed.setdefault(walk(tree, detail["loc"])[1], []).append(detail)
    found = []
    for steps, details in placed.items():
        deeper = any(other[: len(steps)] == steps and other != steps for other in placed)
        for detail in _of_one_branch(details, walk(tree, steps)[0], deeper=deeper):
            found.append(_fault(detail, kind, tree))  # noqa: PERF401  # a comprehension hides the loops
    return found


def _of_one_branch(details: list[ErrorDetails], node: Node, *, deeper: bool) -> list[ErrorDetails]:
    """Return the mistakes that matter where a union was tried branch by branch at one node."""
    if len(details) == 1 and not deeper:
        return details
    keys = [d for d in details if d["type"] in _KEYS]
    if keys or (deeper and isinstance(node, MapNode | ListNode)):
        return keys
    said = [d for d in details if d["type"] not in _WORDS] or details
    return (
        said[:1] if len({d["type"] for d in said}) == 1 or said is not details else [_joined(said)]
    )


def _joined(details: list[ErrorDetails]) -> ErrorDetails:
    """Return one mistake that says all that would have been right."""
    words = [_WORDS[d["type"]].removeprefix("must be ") for d in details]
    joined = details[0].copy()
    joined["type"] = "value_error"
    joined["msg"] = "must be " + " or ".join(dict.fromkeys(words))
    return joined


def _fault(detail: ErrorDetails, kind: object, tree: Node) -> Fault:
    path, what = detail["loc"], detail["type"]
    last = path[-1] if path else ""
    if what == "missing":
        node, _ = walk(tree, path)
        name = f"item {last + 1}" if isinstance(last, int) else f'"{last}"'
        return node.mark.fault(f"{name} is missing")
    if what in _KEYS:
        above, _ = walk(tree, path[:-1])
        node, _ = walk(tree, path)
        known = keys_at(kind, path[:-1], tree)
        present = above.items if isinstance(above, MapNode) else {}
        hint = nearest(str(last), [k for k in known if k not in present] or known)
        return node.mark.above.fault(f'unknown key "{last}"{hint}')
    node, _ = walk(tree, path)
    if last == "[key]":
        message = _message(detail).removeprefix(f'"{path[-2]}" ')
        return node.mark.fault(f'the key "{path[-2]}" {message}')
    return node.mark.fault(_hidden(_message(detail), node))


def _message(detail: ErrorDetails) -> str:
    what, context = detail["type"], detail.get("ctx", {})
    if what in _BOUNDS:
        name, words = _BOUNDS[what]
        return f"must be {words} {context[name]:g}"
    if what == "literal_error":
        options = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        if detail["input"] in options.split(", "):
            return f'"{detail["input"]}" is a text: write {detail["input"]} without quotes'
        hint = nearest(str(detail["input"]), options.split(", "))
        one_of = hint if "did you mean" in hint else ""
        return f'"{detail["input"]}" is not one of {options}{one_of}'
    if what in {"too_long", "too_short"}:
        bound = context.get("max_length", context.get("min_length"))
        return f"must have {'at most' if what == 'too_long' else 'at least'} {bound} items"
    return _WORDS.get(what, detail["msg"].removeprefix("Value error, "))


def _hidden(message: str, node: Node) -> str:
    """Return the message with ``${NAME}`` where the environment's text would stand."""
    if isinstance(node.value, Indirect) and node.value:
        return message.replace(str(node.value), node.text)
    return message


def mended(error: ValidationError, tree: Node) -> dict[Steps, str | None]:
    """Return what a person can only have meant otherwise: text to take at some places, or nothing.

    A number where text is asked for is the digits that were written (``at: 40001``); a key without
    a value is one that was not written (``poll:`` with all its lines commented out).
    """
    found: dict[Steps, str | None] = {}
    for detail in error.errors(include_url=False):
        node, steps = walk(tree, detail["loc"][1:])
        is_number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        if detail["type"] == "string_type" and is_number:
            found[steps] = node.text
        elif is_null(node) and detail["type"] not in _KEYS:
            found[steps] = None
    return found


def plain_with(node: Node, instead: Mapping[Steps, str | None], at: Steps = ()) -> object:
    """Return plain data as ``tree.plain`` does, with other text, or nothing, at some places."""
    if instead.get(at) is not None:
        return instead[at]
    if isinstance(node, MapNode):
        kept = {k: n for k, n in node.items.items() if instead.get((*at, k), "") is not None}
        return {key: plain_with(item, instead, (*at, key)) for key, item in kept.items()}
    if isinstance(node, ListNode):
        return [plain_with(item, instead, (*at, i)) for i, item in enumerate(node.items)]
    return node.value
