"""What a scan has found, as a person reads it and as YAML to paste."""

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.terminal import Row, labelled, table, width
from edge_agent.tools.fit import Fit
from edge_agent.tools.guess import float_of
from edge_agent.tools.models import Models
from edge_agent.tools.pasted import device_lines, differing, identifier
from edge_agent.tools.plausible import Evidence, told
from edge_agent.tools.ranges import MOST, Found
from edge_agent.tools.scan import Scan, Unit

SHOWN_RANGES = 12  # of one unit; a map full of holes has hundreds
SHOWN_FITS = 3
SHOWN_WORDS = 44  # places for what speaks for a template
SMALL, LARGE = 1e-3, 1e9  # floats that a plant has
SHOWN_REGISTERS = 16  # of a unit that nothing is known of


def lines(scan: Scan, *, is_whole: bool) -> Iterator[str]:
    """Yield the tables and the YAML; ``is_whole`` is false when it was ended before its time."""
    units = list(scan.units.values())
    yield from _heading(scan, is_whole=is_whole)
    if not units:
        return
    yield ""
    yield from table(_ranges(units))
    yield ""
    yield from table(_models(units))
    yield from _remarks(units)
    yield ""
    yield from pasted(scan)


def _heading(scan: Scan, *, is_whole: bool) -> Iterator[str]:
    found = len(scan.units)
    silent = 0 if scan.is_one else scan.asked - found
    answer = "unit answers" if found == 1 else "units answer"
    yield f"{scan.wish.url}: {found} {answer}, {silent} silent ({scan.requests} requests)"
    if scan.lost:
        yield f"ended early: {scan.lost}"
    elif not is_whole:
        yield "ended early: what was found until then follows"
    if not found and is_whole:
        yield from labelled([("look at", _advice(scan))])
    if scan.is_one:
        yield f"all {scan.asked} numbers are answered alike: it is one device, whatever its unit"


def _advice(scan: Scan) -> str:
    if scan.device.line.is_serial:
        line = scan.device.line
        return (
            f"baud ({line.baud} here), parity ({line.parity} here) and address as set in the meter "
            "(try baud=4800, 2400, 19200 and parity=E); A and B not crossed; --units 1-247; "
            "--timeout 1s"
        )
    return (
        "the addresses set in the meters (--units 1-247); behind a gateway its baud and parity, A "
        "and B not crossed; a gateway that passes frames on as they are needs "
        "modbus+rtu-over-tcp://; --timeout 1s"
    )


def _ranges(units: list[Unit]) -> Iterator[Row]:
    yield ("unit", "readable", "registers", "not 0", "at a time", "function")
    for unit in units:
        rows = [row for kind, found in unit.tables.items() for row in _of_table(kind, found)]
        if not rows:
            rows = [("nothing found", "", "", "", "")]
        for row in rows[:SHOWN_RANGES]:
            yield (str(unit.number), *row)
        if len(rows) > SHOWN_RANGES:
            yield (str(unit.number), f"and {len(rows) - SHOWN_RANGES} more", "", "", "", "")


def _of_table(kind: Table, found: Found) -> Iterator[Row]:
    if found.everywhere:
        filled = sum(word != 0 for word in found.words.values())
        yield ("any address", "65536", f"{filled} of {len(found.words)}", "", str(kind.function))
        return
    for span in found.ranges():
        filled = sum(found.words[a] != 0 for a in range(span.first, span.last + 1))
        where = f"{Address(kind, span.first)} … {Address(kind, span.last)}"
        where += " …" if span.last in found.cut else ""
        most = str(found.limit) if found.limit < MOST else ""
        yield (where, str(span.count), str(filled), most, str(kind.function))


def _models(units: list[Unit]) -> Iterator[Row]:
    yield ("unit", "template", "fit", "tags", "what speaks for it")
    for unit in units:
        number = str(unit.number)
        for fit in unit.fits[:SHOWN_FITS]:
            readable = f"{fit.readable} of {fit.tags}"
            yield (
                number,
                fit.template,
                fit.words,
                readable,
                said_of(fit.evidence),
            )
        for guess in unit.unknown:
            held = f"{guess.type} {guess.order} in {guess.table.prefix}"
            yield (number, "none", "possible", held, said_of(guess.evidence))
        if not unit.fits and not unit.unknown:
            yield (number, "none", "", "", "" if unit.done else "not searched to the end")


def said_of(evidence: Evidence) -> str:
    """Return as much of what speaks for it as a line has room for."""
    said = ""
    for part in told(evidence):
        if width(said) + width(part) > SHOWN_WORDS:
            return said
        said += (", " if said else "") + part
    return said


def _remarks(units: list[Unit]) -> Iterator[str]:
    silent = [f"unit {u.number}, function {t.function}" for u in units for t in u.silent]
    if silent:
        yield ""
        yield from labelled(
            [("left alone", f"{', '.join(silent)}: silent for addresses that it does not have")]
        )


# ---- YAML ------------------------------------------------------------------------------------


def pasted(scan: Scan) -> Iterator[str]:
    """Yield the devices to paste, with what is not certain as comments."""
    models, named = Models(), dict[str, object]()
    yield "devices:"
    for unit in scan.units.values():
        fit = unit.fits[0] if unit.fits else None
        stem = fit.template.split("/")[-1] if fit else "unit"
        name = identifier([stem, str(unit.number)], named)
        named[name] = unit
        if fit is not None:
            yield from _with_template(name, scan, unit, fit, models)
        else:
            yield from _without_template(name, scan, unit)


def _with_template(name: str, scan: Scan, unit: Unit, fit: Fit, models: Models) -> Iterator[str]:
    keys: dict[str, object] = {
        "connect": address_of(scan.wish.url, unit.number),
        "template": fit.template,
    }
    if fit.order is not None:
        keys["order"] = fit.order
    others = ", ".join(other.template for other in unit.fits[1:SHOWN_FITS])
    notes = {"template": f"{fit.words}" + (f"; or {others}" if others else "")}
    facts = models.facts(fit.template)
    if facts is not None and facts.values == "secondary" and _has_ratio(scan.maps[fit.template]):
        keys |= {"ct": 1, "pt": 1}
        notes["ct"] = "from the transformers' plates: 600/5 A is 120"
        notes["pt"] = "10000/100 V is 100; without voltage transformers 1"
    yield from device_lines(name, keys, {}, notes)


def _has_ratio(device: ModbusDevice) -> bool:
    return any(tag.ratio != "1" for tag in device.tags.values())


def _without_template(name: str, scan: Scan, unit: Unit) -> Iterator[str]:
    keys: dict[str, object] = {"connect": address_of(scan.wish.url, unit.number)}
    notes = {"": "no template fits: compare with the manual"}
    limit = min((found.limit for found in unit.tables.values()), default=MOST)
    if limit < MOST:
        keys["max_registers"] = limit
    tags: dict[str, Mapping[str, object]] = {}
    for guess in unit.unknown:
        for tag, written in guess.tags.items():
            unique = identifier([tag], tags).replace("-", "_")
            tags[unique] = differing(written, None)
            notes[unique] = f"{guess.values[tag]:.6g}"
    if not tags:
        for at, note in _registers(unit):
            name_of_it = at.replace(":", "_")
            tags[name_of_it], notes[name_of_it] = {"at": at}, note
    yield from device_lines(name, keys, tags, notes)


def _registers(unit: Unit) -> Iterator[tuple[str, str]]:
    """Yield the first registers that are not zero and what they may say."""
    left = SHOWN_REGISTERS
    for kind, found in unit.tables.items():
        for address in sorted(a for a, word in found.words.items() if word)[:left]:
            left -= 1
            word, behind = found.words[address], found.words.get(address + 1)
            said = f"bit {word}" if kind.is_bits else f"u16 {word}"
            if behind is not None and not kind.is_bits:
                said += f", with the next u32 {word << 16 | behind} or CDAB {behind << 16 | word}"
                real = float_of(word, behind, "ABCD")
                said += f", f32 {real:.5g}" if SMALL <= abs(real) <= LARGE else ""
            yield str(Address(kind, address)), said


def address_of(url: str, unit: int) -> str:
    """Return the address with the number of the unit."""
    parts = urlsplit(url)
    options = [(k, v) for k, v in parse_qsl(parts.query) if k != "unit"]
    query = urlencode([*options, ("unit", str(unit))], safe="/")
    return f"{url.partition('?')[0]}?{query}"
