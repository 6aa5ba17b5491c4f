"""Units with their dimension and factor, resolved once when the configuration is read.

A unit is written as a UCUM code (``kW.h``, ``mg/m3``, ``Cel``) or in one of the field's spellings
(``kWh``, ``°C``, ``t/h``, ``kgce``). It is shown as it was written; conversion is by factor. Things
that must never be mixed have a dimension of their own: coal equivalent is not mass, a normal cubic
metre (0 °C) is not a cubic metre at 20 °C, reactive and apparent power are not active power, and a
bag is not a piece.

Source: UCUM, https://ucum.org/ucum (case-sensitive codes); GB/T 2589-2020 for kgce.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

Dimension = tuple[tuple[str, int], ...]

_PREFIX = {"k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3, "u": 1e-6, "c": 1e-2, "d": 1e-1, "h": 1e2}

# atom -> (factor to the base, dimension); prefixes apply to those marked metric
_ATOMS: dict[str, tuple[float, dict[str, int], bool]] = {
    "1": (1.0, {}, False),
    "%": (0.01, {}, False),
    "[ppm]": (1e-6, {}, False),
    "m": (1.0, {"L": 1}, True),
    "g": (1e-3, {"M": 1}, True),
    "t": (1e3, {"M": 1}, True),
    "s": (1.0, {"T": 1}, True),
    "min": (60.0, {"T": 1}, False),
    "h": (3600.0, {"T": 1}, False),
    "d": (86400.0, {"T": 1}, False),
    "a": (31557600.0, {"T": 1}, False),
    "K": (1.0, {"Θ": 1}, True),
    "Cel": (1.0, {"Cel": 1}, False),  # an offset scale: never converted
    "A": (1.0, {"I": 1}, True),
    "V": (1.0, {"M": 1, "L": 2, "T": -3, "I": -1}, True),
    "W": (1.0, {"M": 1, "L": 2, "T": -3}, True),
    "J": (1.0, {"M": 1, "L": 2, "T": -2}, True),
    "Hz": (1.0, {"T": -1}, True),
    "N": (1.0, {"M": 1, "L": 1, "T": -2}, True),
    "deg": (1.0, {"angle": 1}, False),  # of its own: a plain number is no angle
    "Pa": (1.0, {"M": 1, "L": -1, "T": -2}, True),
    "bar": (1e5, {"M": 1, "L": -1, "T": -2}, True),
    "l": (1e-3, {"L": 3}, True),
    "L": (1e-3, {"L": 3}, True),
    "[Nm3]": (1.0, {"normal volume": 1}, True),
    "[var]": (1.0, {"M": 1, "L": 2, "T": -3, "reactive": 1}, True),
    "[VA]": (1.0, {"M": 1, "L": 2, "T": -3, "apparent": 1}, True),
    "[gce]": (1e-3, {"coal equivalent": 1}, True),
    "[tce]": (1e3, {"coal equivalent": 1}, False),
    "[CNY]": (1.0, {"money": 1}, False),
    "[gCO2]": (1e-3, {"carbon dioxide": 1}, True),
    "[mu]": (2000 / 3, {"L": 2}, False),
}

# the field's spellings, as UCUM with the atoms above
_SPELLINGS = {
    "kWh": "kW.h",
    "MWh": "MW.h",
    "Wh": "W.h",
    "var": "[var]",
    "kvar": "k[var]",
    "kvarh": "k[var].h",
    "VA": "[VA]",
    "kVA": "k[VA]",
    "kV.A": "k[VA]",
    "kVAh": "k[VA].h",
    "°C": "Cel",
    "Nm": "N.m",
    "rpm": "1/min",
    "°": "deg",
    "ppm": "[ppm]",
    "Nm3": "[Nm3]",
    "kNm3": "k[Nm3]",
    "kgce": "k[gce]",
    "tce": "[tce]",
    "CNY": "[CNY]",
    "元": "[CNY]",
    "万元": "10000.[CNY]",
    "kgCO2": "k[gCO2]",
    "tCO2": "M[gCO2]",
    "mu": "[mu]",
    "亩": "[mu]",
    "µg": "ug",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as written, with its dimension and its factor to the base units of that dimension."""

    code: str
    dimension: Dimension
    factor: float

    @classmethod
    def parse(cls, code: str) -> "Unit":
        """Return the unit a person wrote; ``ValueError`` if it is not known."""
        return _parse(code)

    def factor_to(self, other: "Unit") -> float:
        """Return what a value in this unit is multiplied with to be in the other.

        errors  ``ValueError`` when the dimensions differ
        """
        if self.dimension != other.dimension:
            raise ValueError(f"{self.code} cannot be converted to {other.code}")
        return 1.0 if self.code == other.code else self.factor / other.factor

    def times(self, other: "Unit", power: int = 1) -> "Unit":
        """Return the unit of a product with a power of another: ``kW`` times ``h`` is ``kW.h``.

        Equal atoms are put together, so ``t/h`` times ``h`` is ``t``.
        """
        powers = dict[str, int]()
        for atom, exponent in (
            *_atoms(self.code),
            *((a, e * power) for a, e in _atoms(other.code)),
        ):
            powers[atom] = powers.get(atom, 0) + exponent
        numbers = [(atom, p) for atom, p in powers.items() if atom.isdigit()]
        for atom, exponent in numbers:  # 10000.[CNY] squared: a number has no power in a code
            del powers[atom]
            if int(atom) != 1 and exponent:
                number = str(int(atom) ** abs(exponent))
                powers[number] = powers.get(number, 0) + (1 if exponent > 0 else -1)
        return Unit.parse(_code_of(powers))

    def root(self) -> "Unit":
        """Return the unit whose square this is; ``ValueError`` when there is none."""
        powers = dict[str, int]()
        for atom, exponent in _atoms(self.code):
            powers[atom] = powers.get(atom, 0) + exponent
        if any(power % 2 for atom, power in powers.items() if atom != "1"):
            raise ValueError(f"{self.code} is not the square of a unit")
        return Unit.parse(_code_of({a: p // 2 for a, p in powers.items() if a != "1"}))


@cache
def _parse(code: str) -> Unit:
    factor, powers = 1.0, dict[str, int]()
    for atom, power in _atoms(code):
        atom_factor, dimension = _measure(atom, code)
        factor *= atom_factor**power
        for name, exponent in dimension.items():
            powers[name] = powers.get(name, 0) + exponent * power
    return Unit(code, tuple(sorted((n, p) for n, p in powers.items() if p)), factor)


def _atoms(code: str) -> list[tuple[str, int]]:
    """Return the atoms of a unit with their powers, the field's spellings spelled out."""
    whole = _SPELLINGS.get(code.strip(), code.strip() or "1")
    found, sign = list[tuple[str, int]](), 1
    for part in re.split(r"([./])", whole):
        if part in {".", "/"}:
            sign = 1 if part == "." else -1
        elif part in _SPELLINGS:  # all of it is divided by: kg/kWh is kg/kW/h
            found += [(atom, sign * power) for atom, power in _atoms(part)]
        else:
            match = re.fullmatch(r"(\d+)|(.*?[^\d-])(-?\d+)?", part)
            if not match:
                raise ValueError(f'unknown unit "{code}"')
            found.append((match[1] or match[2], sign * int(match[3] or 1)))
    return found


def _measure(atom: str, whole: str) -> tuple[float, Mapping[str, int]]:
    """Return the factor and the dimension of one atom of a unit."""
    if atom.isdigit():
        return float(atom), {}
    if atom.startswith("{") and atom.endswith("}"):
        return 1.0, {atom: 1}  # a counted thing: {bag}
    if atom in _ATOMS:
        return _ATOMS[atom][:2]
    prefix, rest = atom[:1], atom[1:]
    if prefix in _PREFIX and rest in _ATOMS and _ATOMS[rest][2]:
        factor, dimension, _ = _ATOMS[rest]
        return _PREFIX[prefix] * factor, dimension
    raise ValueError(f'unknown unit "{whole}"')


def _code_of(atoms: Mapping[str, int]) -> str:
    """Return the code of a product of atoms with their powers."""
    over = [f"{atom}{'' if power == 1 else power}" for atom, power in atoms.items() if power > 0]
    under = [
        f"/{atom}{'' if power == -1 else -power}" for atom, power in atoms.items() if power < 0
    ]
    return ".".join(over or ["1"]) + "".join(under)


def _plain_schema(
    parse: Callable[[object], object], json: Mapping[str, object]
) -> dict[str, object]:
    """Return what the configuration's reader needs to read a type of ours, as plain data.

    The two value types below are read from text by the configuration, the only package that imports
    the validation library; that library's schemas are dictionaries, so nothing is imported here.
    """
    return {
        "type": "function-plain",
        "function": {"type": "no-info", "function": parse},
        "metadata": {"pydantic_js_functions": [lambda _schema, _handler: dict(json)]},
    }


class Duration(float):
    """A length of time in seconds, read from ``500ms 1s 15min 1h 7d 5y``."""

    _UNITS: ClassVar = {
        "ms": 1e-3,
        "s": 1.0,
        "min": 60.0,
        "m": 60.0,
        "h": 3600.0,
        "d": 86400.0,
        "y": 365 * 86400.0,
    }

    @property
    def ns(self) -> int:
        """The same in whole nanoseconds."""
        return round(self * 1e9)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return the duration that a person wrote; ``ValueError`` says what would be right."""
        if isinstance(text, Duration):
            return cls(text)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|y)", str(text).strip())
        if not match:
            raise ValueError(f"{text!r} is not a duration (write 500ms, 1s, 15min, 1h, 7d)")
        return cls(float(match[1]) * cls._UNITS[match[2]])

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, object]:
        return _plain_schema(cls.parse, {"type": "string", "examples": ["500ms", "1s", "15min"]})


class Size(int):
    """A number of bytes, read from ``64MiB 2GiB``."""

    _UNITS: ClassVar = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return the size that a person wrote; ``ValueError`` says what would be right."""
        if isinstance(text, Size):
            return cls(text)
        match = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)", str(text).strip())
        if not match:
            raise ValueError(f"{text!r} is not a size (write 64MiB, 2GiB)")
        return cls(int(match[1]) * cls._UNITS[match[2]])

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, object]:
        return _plain_schema(cls.parse, {"type": "string", "examples": ["64MiB", "2GiB"]})


class Indirect(str):
    """A text that the configuration took from the environment; the file has only its name."""

    __slots__ = ()


class Secret:
    """A text that is never shown: its ``repr`` and ``str`` are stars."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text; for the one call that hands it to the peer."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def parse(cls, text: object) -> "Secret":
        """Return the secret that ``${NAME}`` or ``file:/path`` names, else ``ValueError``.

        The text is in no message, because somebody may have written the secret itself.
        """
        if isinstance(text, Secret):
            return text
        if isinstance(text, str) and text.startswith("file:/"):
            try:
                return cls(Path(text.removeprefix("file:")).read_text("utf-8").strip())
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "is not text"
                raise ValueError(f"the file of the secret cannot be read: {why}") from error
        if isinstance(text, Indirect):
            return cls(str(text))
        raise ValueError("a secret does not stand in the file itself: write ${NAME} or file:/path")

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> dict[str, object]:
        return _plain_schema(cls.parse, {"type": "string", "examples": ["${MQTT_PASSWORD}"]})
