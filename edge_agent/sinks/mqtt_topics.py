"""Topics from a template, and what a template must not be.

``edge/{site}/{owner}/{name}`` is the contract's. What the columns of an owner's streams are stands
where a stream of it called ``$meta`` would stand, and whether the gateway is on line where a stream
``<gateway>`` of an owner ``$state`` would; so one template moves all that is published.

Source: MQTT 5.0, 4.7 (topic names), https://docs.oasis-open.org/mqtt/mqtt/v5.0.
"""

import re
from collections.abc import Sequence

from edge_agent.model import Schema, Site

TEMPLATE = "edge/{site}/{owner}/{name}"
CLIENT_ID = "{site}-{gateway}"
LONGEST = 1024  # bytes of a template; a topic may have 65 535

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_KNOWN = ("site", "gateway", "owner", "name")
_APART = re.compile(r"[^a-z0-9-]")  # what no id of a device or metric has
_WILD = re.compile(r"[*?\[]")


class Topics:
    """The topics of one gateway."""

    def __init__(self, template: str, site: Site) -> None:
        fixed = {"site": site.id, "gateway": site.gateway}
        self._template = _filled(template, fixed)
        # a template for one name, or for one owner, has no place for $meta or $state: a level more
        held = _PLACEHOLDER.findall(template)
        lacking = [f"/{{{part}}}" for part in ("owner", "name") if part not in held]
        self._apart = self._template + "".join(lacking)
        self._streams: dict[str, str] = {}
        self.state = _filled(self._apart, {"owner": "$state", "name": site.gateway})

    def stream(self, schema: Schema) -> str:
        """Return where the rows of a stream stand."""
        topic = self._streams.get(schema.stream)
        if topic is None:
            parts = {"owner": schema.owner, "name": schema.name}
            topic = self._streams[schema.stream] = _filled(self._template, parts)
        return topic

    def meta(self, owner: str) -> str:
        """Return where it is told what the columns of an owner's streams are."""
        return _filled(self._apart, {"owner": owner, "name": "$meta"})


def client_id(template: str, site: Site) -> str:
    """Return who the gateway is for the broker."""
    return _filled(template, {"site": site.id, "gateway": site.gateway})


def _filled(template: str, parts: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda m: parts.get(m[1], m[0]), template)


def template_problem(template: str, streams: Sequence[str]) -> str | None:
    """Return what is wrong with a template of topics, or None.

    streams  the patterns of the streams that are sent; none: all
    """
    held = _PLACEHOLDER.findall(template)
    return (
        _placeholder_problem(template, _KNOWN)
        or _level_problem(template)
        or _sharing_problem(template, held, streams)
    )


def client_id_problem(template: str) -> str | None:
    """Return what is wrong with a template of client ids, or None."""
    if not template or not template.isprintable():
        return f"client_id is empty or has control characters (write {CLIENT_ID!r})"
    return _placeholder_problem(template, ("site", "gateway"))


def _placeholder_problem(template: str, known: Sequence[str]) -> str | None:
    right = ", ".join(f"{{{name}}}" for name in known)
    for name in _PLACEHOLDER.findall(template):
        if name not in known:
            return f"there is no {{{name}}} (write {right})"
        if template.count(f"{{{name}}}") > 1:
            return f"{{{name}}} stands twice (write each of {right} once at most)"
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        return f"{template!r} has a brace without its partner (write {right})"
    return None


def _level_problem(template: str) -> str | None:
    if len(template.encode()) > LONGEST:
        return f"topic has more than {LONGEST} bytes (write a shorter one)"
    wrong = [letter for letter in template if letter in "+#" or not letter.isprintable()]
    if wrong:
        return f"a topic that is published to has no {wrong[0]!r} (write {TEMPLATE!r})"
    if "" in template.split("/"):
        return f"{template!r} has an empty level (write {TEMPLATE!r})"
    if template.startswith("$"):
        return f"topics that begin with $ are the broker's own (write {TEMPLATE!r})"
    if template.startswith(("{owner}", "{name}")):
        return (
            "a level stands before {owner} and {name}, because $state and $meta stand in their "
            f"place and topics that begin with $ are the broker's own (write 'edge/{template}')"
        )
    return None


def _sharing_problem(template: str, held: Sequence[str], streams: Sequence[str]) -> str | None:
    """Return why two streams could stand on one topic."""
    parts = [pattern.partition("/")[::2] for pattern in streams]
    for place, part, example in ((0, "owner", "em-kiln/*"), (1, "name", "*/raw")):
        fixed = {pattern[place] for pattern in parts}
        if part not in held and (len(fixed) != 1 or _WILD.search(fixed.pop())):
            return (
                f"without {{{part}}} several streams stand on one topic (write {TEMPLATE!r}, or "
                f"streams: ['{example}'])"
            )
    if "owner" in held and "name" in held:
        first, second = sorted(template.index(f"{{{part}}}") for part in ("owner", "name"))
        between = _PLACEHOLDER.sub("", template[template.index("}", first) + 1 : second])
        if not _APART.search(between):
            return (
                "nothing parts {owner} and {name}, so that two streams could stand on one topic "
                f"(write {TEMPLATE!r})"
            )
    return None
