"""``edge-agent scan`` on a line of DL/T 645 or CJ/T 188 meters: who is there, and what they know.

The only meter of a line says its address when it is asked for it. Several speak at once, and what
arrives is garbled; then DL/T 645 meters are asked by the last pair of their address, the other
pairs standing for any (AA), and where that is garbled still, by one pair more. Who is found is read
once with each template, by the driver itself.

Source: as for ``dlt645_codec`` and ``cjt188_codec``.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode

from edge_agent.clock import SystemClock
from edge_agent.drivers import cjt188_codec, dlt645_codec
from edge_agent.drivers.base import DeviceConfig
from edge_agent.drivers.cjt188 import Cjt188Device
from edge_agent.drivers.dlt645 import Dlt645Device
from edge_agent.drivers.octet_line import Garbled, OctetLine
from edge_agent.drivers.octet_meters import MeterDevice
from edge_agent.errors import ConfigError, Disconnected, NoAnswer
from edge_agent.terminal import Row, labelled, table
from edge_agent.tools.fit import Fit
from edge_agent.tools.models import Models
from edge_agent.tools.pasted import device_lines, identifier
from edge_agent.tools.plausible import Reading, weigh
from edge_agent.tools.scan_told import said_of
from edge_agent.units import Duration

PAIRS = [f"{i:02d}" for i in range(100)]
READS = {"2007": 0x11, "1997": 0x01}  # the function of reading
TYPES = (0x10, 0x20, 0x30)  # water, heat and gas meters (CJ/T 188)
MEASURES = {"1": "water", "11": "hot-water", "2": "heat", "3": "gas"}  # first digits of types
LEAST = 0.5  # share of a template's tags that a meter must know
MOST = 0.9  # share from which the template is very likely
SHOWN = 3


@dataclass
class Meter:
    """A meter that answered, and the templates that it knows the tags of."""

    options: Mapping[str, str]  # of its address: address, version, type
    fits: list[Fit] = field(default_factory=list)
    done: bool = False

    def suits(self, template: str) -> bool:
        """Return whether a template is called by what the meter says that it measures."""
        kind = self.options.get("type", "")
        words = MEASURES.get(kind) or MEASURES.get(kind[:1], "")
        return template.rpartition("/")[2].startswith(words)

    @property
    def name(self) -> str:
        """What a person calls it."""
        return " ".join(self.options.values())


class MeterScan:
    """One scan of one line; what it has found so far can be shown at any time."""

    def __init__(
        self,
        url: str,
        timeout: Duration,
        progress: Callable[[str], None],
        *,
        deep: bool = False,
        pairs: Sequence[str] = PAIRS,
    ) -> None:
        """``pairs``: of digits that are tried where several meters speak at once."""
        self.url = url
        self.deep = deep
        self.meters: list[Meter] = []
        self.requests = 0
        self.is_garbled = False
        self.lost = ""
        self._progress = progress
        self._pairs = pairs
        self._timeout = float(timeout)
        self.device = _line_at(url)

    @property
    def found(self) -> bool:
        """Whether anybody answered."""
        return bool(self.meters)

    async def run(self) -> None:
        """Scan; raises ``Disconnected`` when the line cannot be opened."""
        is_dlt = isinstance(self.device, Dlt645Device)
        size = dlt645_codec.size if is_dlt else cjt188_codec.size
        line = OctetLine(self.device.line, size, self._timeout)
        await line.open()
        try:
            finding = self._dlt645(line) if is_dlt else self._cjt188(line)
            async for meter in finding:
                if all(meter.options["address"] != m.options["address"] for m in self.meters):
                    self.meters.append(meter)
        finally:
            await line.close()
        for meter in self.meters:
            await self._try_templates(meter)
        self._progress("")

    # ---- who is there ----

    async def _ask(
        self, line: OctetLine, request: bytes, accept: Callable[[bytes], str | None]
    ) -> str | None:
        """Return the address that answered; None for silence or what is garbled."""
        self.requests += 1
        try:
            return await line.ask(request, accept, self._timeout, float(self.device.pause))
        except TimeoutError:
            return None
        except Garbled:
            self.is_garbled = True
            return None

    async def _dlt645(self, line: OctetLine) -> AsyncIterator[Meter]:
        self._progress("asking for the address of the only meter")
        address = await self._ask(line, dlt645_codec.read_address(), _address_of(0x13))
        if address is not None:
            yield Meter({"address": address})
            if not self.deep:
                return
        for version, item in (("2007", 0x00010000), ("1997", 0x9010)):
            anybody = dlt645_codec.read(dlt645_codec.ANYBODY, item, version)
            self.is_garbled = False
            address = await self._ask(line, anybody, _address_of(READS[version]))
            if address is not None:
                yield Meter({"address": address} | _version(version))
            if self.deep or self.is_garbled:
                async for found in self._by_pairs(line, "", version, item):
                    yield Meter({"address": found} | _version(version))
            if self.meters and not self.deep:
                return  # a line speaks one edition

    async def _by_pairs(
        self, line: OctetLine, known: str, version: str, item: int
    ) -> AsyncIterator[str]:
        """Yield the meters whose address ends with some pairs."""
        for pair in self._pairs:
            ending = pair + known
            asked = ending.rjust(12, "A")
            self._progress(f"asking …{ending} ({version}), {len(self.meters)} found")
            request = dlt645_codec.read(asked, item, version)
            self.is_garbled = False
            address = await self._ask(line, request, _address_of(READS[version], ending))
            if address is not None:
                yield address
            elif self.is_garbled and len(ending) < 12:
                async for found in self._by_pairs(line, ending, version, item):
                    yield found

    async def _cjt188(self, line: OctetLine) -> AsyncIterator[Meter]:
        for kind in TYPES:
            for order in cjt188_codec.ORDERS:
                self._progress(f"asking for the address of the only meter of type {kind:X}")
                request = cjt188_codec.read_address(kind, 1, order)
                answer = await self._ask(line, request, _water_of)
                if answer is not None:
                    address, type_ = answer.split()
                    yield Meter({"address": address, "type": type_})
                    return

    # ---- what they know ----

    async def _try_templates(self, meter: Meter) -> None:
        place = address_of(self.url, meter.options)
        for name, device in Models().devices(place):
            if device.faults():
                continue
            self._progress(f"{meter.name}: trying {name}")
            readings = await self._read(device)
            if len(readings) >= LEAST * len(device.tags):
                fit = Fit(name, weigh(readings), len(readings), len(device.tags))
                meter.fits.append(fit)
        meter.fits.sort(
            key=lambda fit: (fit.readable >= MOST * fit.tags, meter.suits(fit.template), fit.rank),
            reverse=True,
        )
        meter.done = True

    async def _read(self, device: DeviceConfig) -> list[Reading]:
        """Return what the meter says of the tags of a template."""
        driver = type(device).build({"meter": device}, SystemClock())
        readings = []
        try:
            await driver.connect()
            for group in driver.groups:
                block = await driver.read(group)
                readings += [
                    Reading(tag.name, tag.unit.code, tag.kind.value, float(block.value[i, -1]))
                    for i, tag in enumerate(block.schema.tags)
                    if block.quality[i, -1] < 128
                ]
        except NoAnswer:
            return readings
        except Disconnected as e:
            self.lost = str(e)
        finally:
            await driver.close()
        return readings


def _version(version: str) -> dict[str, str]:
    return {} if version == "2007" else {"version": version}


def _address_of(function: int, ending: str = "") -> Callable[[bytes], str | None]:
    """Return what takes a meter's answer to a function, if its address ends so."""

    def accept(octets: bytes) -> str | None:
        frame = dlt645_codec.parse(octets)
        if not frame.is_answer or frame.function != function:
            return None
        if frame.is_refusal and function == READS["1997"]:
            return None  # a meter of 2007 that was asked in the words of 1997
        address = frame.address
        if function == 0x13 and len(frame.data) == 6:
            address = frame.data[::-1].hex()
        return address if address.isdecimal() and address.endswith(ending) else None

    return accept


def _water_of(octets: bytes) -> str | None:
    """Take the answer of a CJ/T 188 meter: its address and type."""
    frame = cjt188_codec.parse(octets)
    return f"{frame.address} {frame.type:X}" if frame.is_answer else None


def _line_at(url: str) -> MeterDevice:
    """Return the line as a device; ``ConfigError`` when the address is none."""
    kinds = {s: kind for kind in (Dlt645Device, Cjt188Device) for s in kind.schemes}
    made: MeterDevice = kinds[url.partition(":")[0]](connect=url)
    wrong = [message for steps, message in made.faults() if steps == ("connect",)]
    if wrong:
        raise ConfigError([f"scan: {url}: {message}" for message in wrong])
    return made


def address_of(url: str, options: Mapping[str, str]) -> str:
    """Return the address of the line with a meter's own options."""
    base, _, query = url.partition("?")
    kept = {k: v for k, v in parse_qsl(query) if k not in {"address", "version", "type"}}
    return f"{base}?{urlencode(kept | dict(options))}"


# ---- what is told ----------------------------------------------------------------------------


def lines(scan: MeterScan, *, is_whole: bool) -> Iterator[str]:
    """Yield the table and the YAML."""
    count = len(scan.meters)
    what = "meter answers" if count == 1 else "meters answer"
    yield f"{scan.url}: {count} {what} ({scan.requests} requests)"
    if scan.lost:
        yield f"ended early: {scan.lost}"
    elif not is_whole:
        yield "ended early: what was found until then follows"
    elif count == 1 and not scan.deep:
        yield "it answers as the only meter of its line; --deep asks for others by their addresses"
    if not count:
        if is_whole:
            yield from labelled([("look at", _advice(scan))])
        return
    yield ""
    yield from table(_rows(scan))
    yield ""
    yield from pasted(scan)


def _advice(scan: MeterScan) -> str:
    serial = scan.device.line.serial
    line = (
        f"baud and parity as set in the meter (here {serial.baud} baud, parity {serial.parity}; "
        "others: 1200, 2400, 9600, parity E)"
    )
    if not scan.device.line.is_serial:
        line = "baud and parity of the serial server: 2400 baud and parity E are usual, or 9600"
    return f"{line}; A and B not crossed; has the meter power; --timeout 2s"


def _rows(scan: MeterScan) -> Iterator[Row]:
    yield ("address", "template", "fit", "tags", "what speaks for it")
    for meter in scan.meters:
        for fit in meter.fits[:SHOWN]:
            told = said_of(fit.evidence)
            yield (meter.name, fit.template, _sure(fit), f"{fit.readable} of {fit.tags}", told)
        if not meter.fits:
            yield (meter.name, "none", "", "", "" if meter.done else "not tried to the end")


def _sure(fit: Fit) -> str:
    return "very likely" if fit.readable >= MOST * fit.tags else "possible"


def pasted(scan: MeterScan) -> Iterator[str]:
    """Yield the devices to paste."""
    models, named = Models(), dict[str, object]()
    yield "devices:"
    for meter in scan.meters:
        fit = meter.fits[0] if meter.fits else None
        ending = meter.options["address"][-4:]
        name = identifier(["em" if fit and "645" in fit.template else "meter", ending], named)
        named[name] = meter
        keys: dict[str, object] = {"connect": address_of(scan.url, meter.options)}
        notes = {}
        if fit is None:
            notes[""] = "no template fits: name one, or write tags"
        else:
            keys["template"] = fit.template
            notes["template"] = _sure(fit)
            facts = models.facts(fit.template)
            if facts is not None and any(tag.ratio != "1" for tag in facts.tags.values()):
                keys |= {"ct": 1, "pt": 1}
                notes["ct"] = "from the transformers' plates: 600/5 A is 120"
                notes["pt"] = "10000/100 V is 100; without voltage transformers 1"
        yield from device_lines(name, keys, {}, notes)
