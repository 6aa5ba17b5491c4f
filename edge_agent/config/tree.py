"""YAML as a tree of nodes that know where they stand, by the core schema of YAML 1.2.

``true`` and ``false``, ``null`` and numbers are what they look like; everything else is text
(``no``, ``on``, ``16:00``). A key that stands twice is a mistake. Trees of several files are laid
over each other (a template under a device, the demo's ports over the plant's file) and every node
keeps its own place, so a mistake is reported where it was written.

The tree is made from the parser's events: the library's own tree of a plant with 100 000 tags is
200 MB, most of which the process would never give back.

Source: YAML 1.2.2, chapter 10.3 (core schema), https://yaml.org/spec/1.2.2.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import yaml
from yaml._yaml import CParser
from yaml.composer import ComposerError

from edge_agent.errors import ConfigError, Fault
from edge_agent.units import Indirect

Key = str | int
Steps = tuple[Key, ...]

_TAG = "tag:yaml.org,2002:"
_FIRST = frozenset("~nNtTfF-+.0123456789")  # what begins a plain scalar that is no text
_PLAIN = (
    ("null", r"~|null|Null|NULL"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
)
_KINDS = tuple((kind, re.compile(pattern)) for kind, pattern in _PLAIN)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Mark:
    """Where something stands: a file, counted from 1, and under which key of what.

    line   0: in no file, but laid over it by a program
    inside the mapping or list that it stands in; None: it is the root
    """

    file: str
    line: int = 1
    column: int = 1
    inside: "Mark | None" = None
    key: Key = ""

    @property
    def steps(self) -> Steps:
        """The keys from the root on."""
        return () if self.inside is None else (*self.inside.steps, self.key)

    @property
    def above(self) -> "Mark":
        """The same place, called by the mapping that it stands in."""
        return self if self.inside is None else self.under(self.inside.inside, self.inside.key)

    def under(self, inside: "Mark | None", key: Key) -> "Mark":
        """Return the same place, called by a key of something else."""
        return Mark(self.file, self.line, self.column, inside, key)

    def fault(self, message: str) -> Fault:
        """Return a mistake at this place, with the dotted steps in front of the message."""
        path = dotted(self.steps)
        return Fault(self.file, self.line, self.column, f"{path}: {message}" if path else message)


@dataclass(frozen=True, slots=True)
class Node:
    """A value; ``mark`` is the place of its key, ``text`` is how it was written."""

    mark: Mark
    value: object = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class MapNode(Node):
    """A mapping, in the order written."""

    items: Mapping[Key, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListNode(Node):
    """A list."""

    items: Sequence[Node] = ()


def dotted(steps: Steps) -> str:
    """Return ``devices.em-kiln.flag.normal[0]``."""
    written = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
    return written.removeprefix(".")


def read(path: Path, faults: list[Fault], name: str | None = None) -> MapNode:
    """Return the tree of a file; what is wrong with it goes to ``faults``.

    errors  ``ConfigError`` when the file cannot be read or is not YAML: then there is no tree
    """
    name = name or str(path)
    try:
        return parse(path.read_text("utf-8"), name, faults)
    except OSError as error:
        raise ConfigError([Fault(name, 1, 1, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text (byte {error.start})"
        raise ConfigError([Fault(name, 1, 1, message)]) from error


def parse(text: str, name: str, faults: list[Fault]) -> MapNode:
    """Return the tree of a YAML text; ``ConfigError`` when it is not YAML."""
    try:
        node = _Reader(text, name, faults).root()
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        line, column = (place.line + 1, place.column + 1) if place else (1, 1)
        raise ConfigError(
            [Fault(name, line, column, f"this is not YAML: {_why(error)}")]
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError([Fault(name, 1, 1, f"this is not YAML: {error}")]) from error
    if node is None:
        return MapNode(Mark(name))
    if isinstance(node, MapNode):
        return node
    faults.append(Fault(name, 1, 1, "must be a mapping: `key: value` lines"))
    return MapNode(Mark(name))


def _why(error: yaml.MarkedYAMLError) -> str:
    why = ", ".join(filter(None, (error.context, error.problem)))
    if "\\t" in why or "\t" in why or "cannot start any token" in why:
        why += " (indent with spaces; put text that begins with a sign in quotes)"
    return why


class _Reader:
    """Turns the events of the YAML library into nodes."""

    def __init__(self, text: str, name: str, faults: list[Fault]) -> None:
        self._parser = CParser(text)
        self._name = name
        self._faults = faults
        self._anchors: dict[str, Node | None] = {}  # None: not yet at its end
        self._texts: dict[str, str] = {}  # a large file says few things, each of them often

    def root(self) -> Node | None:
        """Return the tree of the one document; None when there is none."""
        self._next()  # the stream begins
        first = self._next()
        if isinstance(first, yaml.StreamEndEvent):
            return None
        node = self._node(self._next(), Mark(self._name))
        self._next()  # the document ends
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            message = ("expected a single document in the stream", "but found another document")
            raise ComposerError(message[0], _start(first), message[1], _start(after))
        return node

    def _next(self) -> yaml.Event:
        return cast("yaml.Event", self._parser.get_event())  # None: only after the stream's end

    def _node(self, event: yaml.Event, mark: Mark) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, mark)
        anchor = cast("yaml.NodeEvent", event).anchor
        if anchor is not None:
            self._anchors[anchor] = None
        node: Node
        if isinstance(event, yaml.MappingStartEvent):
            node = MapNode(mark, items=self._mapping(mark))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = ListNode(mark, items=self._list(mark))
        else:
            node = self._scalar(cast("yaml.ScalarEvent", event), mark)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _aliased(self, event: yaml.AliasEvent, mark: Mark) -> Node:
        if event.anchor not in self._anchors:
            message = f"found undefined alias {event.anchor!r}"
            raise ComposerError(None, None, message, _start(event))
        node = self._anchors[event.anchor]
        if node is None:
            self._faults.append(mark.fault("an alias must not contain itself"))
            return Node(mark)
        return _moved(node, mark)

    def _mark(self, event: yaml.Event, inside: Mark | None, key: Key) -> Mark:
        start = _start(event)
        return Mark(self._name, start.line + 1, start.column + 1, inside, key)

    def _list(self, mark: Mark) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, self._mark(event, mark, len(items))))
        return items

    def _mapping(self, mark: Mark) -> dict[Key, Node]:
        items: dict[Key, Node] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key_node = self._node(event, mark)
            if isinstance(key_node, MapNode | ListNode):
                here = self._mark(event, mark.inside, mark.key)
                self._faults.append(here.fault("a key must be text"))
                self._node(self._next(), here)
                continue
            # a number stays what was written, but for whole ones: the states of a tag
            key = key_node.value if type(key_node.value) is int else key_node.text
            place = self._mark(event, mark, key)
            value = self._node(self._next(), place)
            if key in items:
                first = items[key].mark.line
                message = f'key "{key}" stands twice (first in line {first})'
                self._faults.append(place.above.fault(message))
                continue
            items[key] = value
        return items

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Node:
        text = self._texts.setdefault(event.value, event.value)
        kind = _kind(text, event.tag, plain=event.implicit[0])
        if kind == "str":
            return Node(mark, text, text)
        try:
            return Node(mark, _SCALARS[kind](text), text)
        except (KeyError, ValueError):
            message = f'the tag "{event.tag}" is not possible here: write the plain value'
            self._faults.append(mark.fault(message))
            return Node(mark, text, text)


def _start(event: yaml.Event) -> yaml.Mark:
    return cast("yaml.Mark", event.start_mark)  # events of a parser have one


def _kind(text: str, tag: str | None, *, plain: bool) -> str:
    """Return which scalar of the core schema a text is."""
    if tag is not None and tag != "!":
        return tag.removeprefix(_TAG)
    if not plain:
        return "str"
    if not text:
        return "null"
    if text[0] not in _FIRST:
        return "str"
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(text)), "str")


def _moved(node: Node, mark: Mark) -> Node:
    """Return what an alias stands for: the same, reported where it was written first."""
    if isinstance(node, MapNode):
        items = {key: _moved(item, item.mark.under(mark, key)) for key, item in node.items.items()}
        return MapNode(mark, items=items)
    if isinstance(node, ListNode):
        parts = [_moved(item, item.mark.under(mark, i)) for i, item in enumerate(node.items)]
        return ListNode(mark, items=parts)
    return Node(mark, node.value, node.text)


def _integer(text: str) -> int:
    return int(text, 0 if text[:2] in {"0x", "0o"} else 10)


_SCALARS: Mapping[str, Callable[[str], object]] = {
    "str": str,
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": lambda text: float(re.sub(r"\.(?=[a-zA-Z])", "", text)),  # .inf, .nan
}


def of(value: object, mark: Mark) -> Node:
    """Return plain data as a tree; all of it stands at one place."""
    if isinstance(value, Mapping):
        items = {key: of(item, mark.under(mark, key)) for key, item in value.items()}
        return MapNode(mark, items=items)
    if isinstance(value, list | tuple):
        parts = [of(item, mark.under(mark, i)) for i, item in enumerate(value)]
        return ListNode(mark, items=parts)
    return Node(mark, value, str(value))


def is_null(node: Node) -> bool:
    """Return whether nothing stands there."""
    return node.value is None and not isinstance(node, MapNode | ListNode)


def lay_over(below: Node, above: Node) -> Node:
    """Return one tree over another: mappings key by key, the rest whole; null takes a key out."""
    if not (isinstance(below, MapNode) and isinstance(above, MapNode)):
        return above
    mark = above.mark if above.mark.line else below.mark
    items = dict(below.items)
    for key, node in above.items.items():
        if is_null(node):
            items.pop(key, None)
        else:
            items[key] = lay_over(items[key], node) if key in items else node
    return replace(above, mark=mark, items=items)


def expand(node: Node, env: Mapping[str, str], faults: list[Fault]) -> Node:
    """Return the tree with every ``${NAME}`` replaced by the environment's value."""
    if isinstance(node, MapNode):
        items = {k: expand(n, env, faults) for k, n in node.items.items()}
        same = all(new is old for new, old in zip(items.values(), node.items.values(), strict=True))
        return node if same else replace(node, items=items)
    if isinstance(node, ListNode):
        return replace(node, items=[expand(n, env, faults) for n in node.items])
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    for name in _VARIABLE.findall(node.value):
        if name not in env:
            message = f'the environment variable "{name}" is not set'
            faults.append(node.mark.fault(message))
    return replace(node, value=Indirect(_VARIABLE.sub(lambda m: env.get(m[1], ""), node.value)))


def plain(node: Node) -> object:
    """Return the tree as dictionaries, lists and scalars."""
    if isinstance(node, MapNode):
        return {key: plain(item) for key, item in node.items.items()}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return node.value


def walk(node: Node, path: Sequence[Key]) -> tuple[Node, Steps]:
    """Return the deepest node on a path and the steps to it; those not in the tree are skipped."""
    steps: list[Key] = []
    for step in path:
        if isinstance(node, MapNode) and step in node.items:
            node = node.items[step]
        elif isinstance(node, ListNode) and step in range(len(node.items)):
            node = node.items[int(step)]
        else:
            continue
        steps.append(step)
    return node, tuple(steps)
