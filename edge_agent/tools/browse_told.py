"""What was found on an OPC UA server, as a tree to read and as YAML to paste."""

from collections.abc import Iterator, Sequence

from edge_agent.drivers.opcua_security import Security
from edge_agent.terminal import Row, padded, shortened, table, width
from edge_agent.tools.browse import Browse
from edge_agent.tools.nodes import Variable, kind_of, machines, tag_of
from edge_agent.tools.pasted import device_lines, differing

NAME_PLACES, VALUE_PLACES = 40, 22
PASSWORD = "${OPCUA_PASSWORD}"  # noqa: S105  the name of the variable that holds it


def lines(browse: Browse, *, is_whole: bool, shows_yaml: bool = True) -> Iterator[str]:
    """Yield the tree and the YAML."""
    look, found = browse.look, browse.variables
    where = f" below {look.path}" if look.path else ""
    yield f"{browse.device.endpoint}: {len(found)} variables{where} ({browse.nodes} nodes)"
    if browse.is_full:
        yield f"ended at {look.most} nodes: choose a part with --path or --match, or raise --most"
    elif not is_whole:
        yield "ended early: what was found until then follows"
    if not found:
        return
    yield ""
    yield from _tree(found)
    if shows_yaml:
        yield ""
        yield from pasted(browse)


def _tree(variables: Sequence[Variable]) -> Iterator[str]:
    """Yield the variables, indented below the objects they hang on."""
    rows: list[Row] = []
    shown: tuple[str, ...] = ()
    for variable in sorted(variables, key=lambda v: v.path[:-1]):
        above = variable.path[:-1]
        common = 0
        while common < min(len(above), len(shown)) and above[common] == shown[common]:
            common += 1
        rows += [(_indented(above[i], i), "", "", "", "") for i in range(common, len(above))]
        shown = above
        kind = variable.type if variable.array is None else f"{variable.type}[{variable.array}]"
        rows.append(
            (
                _indented(variable.path[-1], len(above)),
                shortened(variable.shown, VALUE_PLACES),
                variable.unit,
                kind,
                kind_of(variable) if variable.is_usable else "",
            )
        )
    yield from table([("name", "value", "unit", "type", "kind"), *rows])


def _indented(name: str, level: int) -> str:
    return padded(shortened("  " * level + name, NAME_PLACES), min(NAME_PLACES, width(name)))


def pasted(browse: Browse) -> Iterator[str]:
    """Yield the devices to paste, with the values that were read as comments."""
    look = browse.look
    yield "devices:"
    for machine in machines(browse.variables, "plc"):
        keys: dict[str, object] = {"connect": look.url}
        if look.security is not None:
            keys["security"] = _secured(look.security)
        tags, notes = {}, {}
        for name, variable in machine.tags.items():
            tags[name] = differing(tag_of(variable), None)
            notes[name] = shortened(variable.shown.replace("\n", " "), VALUE_PLACES)
        yield from device_lines(machine.name, keys, tags, notes)


def _secured(security: Security) -> dict[str, object]:
    written: dict[str, object] = {}
    if security.policy != "None":
        written["policy"] = security.policy
    if security.mode is not None:
        written["mode"] = security.mode
    if security.user is not None:
        written["user"] = security.user
    if security.password is not None:
        written["password"] = PASSWORD
    if security.server_certificate is not None:
        written["server_certificate"] = security.server_certificate
    return written
