"""YAML as a tree of nodes that know where they stand, by the core schema of YAML 1.2.

``true`` and ``false``, ``null`` and numbers are what they look like; everything else is text
(``no``, ``on``, ``16:00``). A key that stands twice is a mistake. Trees of several files are laid
over each other (a template under a device, the demo's ports over the plant's file) and every node
keeps its own place, so a mistake is reported where it was written.

Source: YAML 1.2.2, chapter 10.3 (core schema), https://yaml.org/spec/1.2.2.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import BaseConstructor
from yaml.resolver import BaseResolver

from edge_agent.errors import ConfigError, Fault
from edge_agent.units import Indirect

Key = str | int
Steps = tuple[Key, ...]

_TAG = "tag:yaml.org,2002:"
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True)
class Mark:
    """Where something stands: a file, counted from 1, and the steps from its root.

    line  0: in no file, but laid over it by a program
    """

    file: str
    line: int = 1
    column: int = 1
    steps: Steps = ()

    @property
    def above(self) -> "Mark":
        """The same place, called by the mapping that it stands in."""
        return replace(self, steps=self.steps[:-1])

    def fault(self, message: str) -> Fault:
        """Return a mistake at this place, with the dotted steps in front of the message."""
        path = dotted(self.steps)
        return Fault(self.file, self.line, self.column, f"{path}: {message}" if path else message)


@dataclass(frozen=True)
class Node:
    """A value; ``mark`` is the place of its key, ``text`` is how it was written."""

    mark: Mark
    value: object = None
    text: str = ""


@dataclass(frozen=True)
class MapNode(Node):
    """A mapping, in the order written."""

    items: Mapping[Key, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class ListNode(Node):
    """A list."""

    items: Sequence[Node] = ()


def dotted(steps: Steps) -> str:
    """Return ``devices.em-kiln.flag.normal[0]``."""
    written = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
    return written.removeprefix(".")


class _Loader(CParser, Composer, BaseConstructor, BaseResolver):
    def __init__(self, stream: str) -> None:
        CParser.__init__(self, stream)
        Composer.__init__(self)
        BaseConstructor.__init__(self)
        BaseResolver.__init__(self)


for _name, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


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
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        line, column = (place.line + 1, place.column + 1) if place else (1, 1)
        raise ConfigError(
            [Fault(name, line, column, f"this is not YAML: {_why(error)}")]
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError([Fault(name, 1, 1, f"this is not YAML: {error}")]) from error
    finally:
        loader.dispose()
    if root is None:
        return MapNode(Mark(name))
    node = _Reader(name, faults).node(root, Mark(name))
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
    """Turns the nodes of the YAML library into ours."""

    def __init__(self, name: str, faults: list[Fault]) -> None:
        self._name = name
        self._faults = faults
        self._open: list[yaml.Node] = []

    def node(self, node: yaml.Node, mark: Mark) -> Node:
        if any(node is outer for outer in self._open):
            self._faults.append(mark.fault("an alias must not contain itself"))
            return Node(mark)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return MapNode(mark, items=self._mapping(node, mark))
            if isinstance(node, yaml.SequenceNode):
                return ListNode(
                    mark,
                    items=[
                        self.node(item, self._mark(item, (*mark.steps, i)))
                        for i, item in enumerate(node.value)
                    ],
                )
            return self._scalar(node, mark)
        finally:
            self._open.pop()

    def _mark(self, node: yaml.Node, steps: Steps) -> Mark:
        start = node.start_mark
        return Mark(self._name, start.line + 1, start.column + 1, steps)

    def _mapping(self, node: yaml.MappingNode, mark: Mark) -> dict[Key, Node]:
        items: dict[Key, Node] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._faults.append(self._mark(key_node, mark.steps).fault("a key must be text"))
                continue
            key: Key = key_node.value
            if key_node.tag == _TAG + "int":
                key = _integer(key_node.value)
            place = self._mark(key_node, (*mark.steps, key))
            if key in items:
                first = items[key].mark.line
                message = f'key "{key}" stands twice (first in line {first})'
                self._faults.append(place.above.fault(message))
                continue
            items[key] = self.node(value, place)
        return items

    def _scalar(self, node: yaml.Node, mark: Mark) -> Node:
        text = str(node.value)
        try:
            return Node(mark, _SCALARS[node.tag.removeprefix(_TAG)](text), text)
        except (KeyError, ValueError):
            message = f'the tag "{node.tag}" is not possible here: write the plain value'
            self._faults.append(mark.fault(message))
            return Node(mark, text, text)


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
        items = {
            key: of(item, replace(mark, steps=(*mark.steps, key))) for key, item in value.items()
        }
        return MapNode(mark, items=items)
    if isinstance(value, list | tuple):
        parts = [of(item, replace(mark, steps=(*mark.steps, i))) for i, item in enumerate(value)]
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
        return replace(node, items={k: expand(n, env, faults) for k, n in node.items.items()})
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
