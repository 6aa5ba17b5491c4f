"""Frames of DL/T 645-2007 and -1997, for reading and nothing else; pure.

::

    FE FE FE FE  68 A0..A5 68 C L DATA CS 16

A0 to A5 are twelve digits, the lowest pair first; AAH in the high ones stands for any. Every byte
of DATA goes over the wire 33H larger than it is; CS is the sum of all bytes from the first 68H on.
Answers have bit 7 of C set, refusals bit 6 as well, and bit 5 means that more frames follow.

There is no function here that takes a control code: the requests that can be made are read (11H,
in 1997 01H), read what follows (12H, 02H) and read the address (13H), each spelt out. So this
package cannot write to a meter, freeze it or switch its relay, by mistake or on purpose.

Source: DL/T 645-2007, 5 and 7; DL/T 645-1997, 5 and 6.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.drivers.octet_frames import sealed

ANYBODY = "AAAAAAAAAAAA"
VERSIONS = ("2007", "1997")

_HEADER = 10  # from the first 68H to L
_SHIFT = bytes((i + 0x33) & 0xFF for i in range(256))
_UNSHIFT = bytes((i - 0x33) & 0xFF for i in range(256))
_MARK = b"\x68"
_REASONS = {
    "2007": (
        "another error", "it has no such data", "wrong password or not authorised",
        "the baud rate cannot be changed", "too many yearly zones", "too many daily periods",
        "too many tariffs", "an unknown error",
    ),
    "1997": (
        "an illegal value", "it has no such data", "wrong password", "an unknown error",
        "too many yearly zones", "too many daily periods", "too many tariffs", "an unknown error",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame says.

    address  twelve digits, the highest first; "A" where any is meant
    data     without the 33H
    """

    address: str
    control: int
    data: bytes

    @property
    def is_answer(self) -> bool:
        """True for what a meter sends."""
        return bool(self.control & 0x80)

    @property
    def is_refusal(self) -> bool:
        """True where the meter does not do what it was asked for."""
        return bool(self.control & 0x40)

    @property
    def more_follows(self) -> bool:
        """True where the answer goes on in another frame."""
        return bool(self.control & 0x20)

    @property
    def function(self) -> int:
        """What was asked for: 11H, 12H, 13H; in 1997 01H, 02H."""
        return self.control & 0x1F

    def item(self, version: str) -> int | None:
        """Return the data identifier that it is about; None where it carries none."""
        length = identifier_length(version)
        if len(self.data) < length or self.is_refusal:
            return None
        return int.from_bytes(self.data[:length], "little")


def identifier_length(version: str) -> int:
    """Return the bytes of a data identifier: 4, in 1997 2."""
    return 4 if version == "2007" else 2


# ---- addresses -------------------------------------------------------------------------------


def parse_address(text: str) -> str:
    """Return the twelve digits of a meter's address, short ones filled up with 0.

    errors  ``ValueError`` if it is none
    """
    whole = text.upper().zfill(12)
    if not text or not re.fullmatch(r"(AA)*[0-9]*", whole) or len(whole) != 12:
        raise ValueError(
            f'"{text}" is no address of a meter (write its up to 12 digits as on its plate: '
            "202305170042; pairs AA in front stand for any)"
        )
    return whole


def is_one_of(address: str, asked: str) -> bool:
    """Return whether a meter's address is one that was asked for, as far as it says digits."""
    return all("A" in (mine, its) or mine == its for mine, its in zip(address, asked, strict=True))


def _wire(address: str) -> bytes:
    return bytes.fromhex(address)[::-1]


# ---- requests --------------------------------------------------------------------------------


def read(address: str, item: int, version: str = "2007") -> bytes:
    """Return the request for the value, or the block of values, of a data identifier."""
    length = identifier_length(version)
    data = item.to_bytes(length, "little").translate(_SHIFT)
    head = b"\x68\x11\x04" if version == "2007" else b"\x68\x01\x02"
    return sealed(_MARK + _wire(address) + head + data)


def read_on(address: str, item: int, sequence: int, version: str = "2007") -> bytes:
    """Return the request for the frame that follows.

    sequence  1 for the first that follows; 1997 knows none
    """
    length = identifier_length(version)
    data = item.to_bytes(length, "little").translate(_SHIFT)
    if version == "2007":
        data += bytes((sequence,)).translate(_SHIFT)
        return sealed(_MARK + _wire(address) + b"\x68\x12\x05" + data)
    return sealed(_MARK + _wire(address) + b"\x68\x02\x02" + data)


def read_address() -> bytes:
    """Return the request by which the only meter on a line says its address; 2007 only."""
    return sealed(_MARK + _wire(ANYBODY) + b"\x68\x13\x00")


# ---- answers ---------------------------------------------------------------------------------


def size(octets: bytes, at: int) -> int:
    """Return the length of the frame that begins at a 68H, see ``octet_frames.Size``."""
    if len(octets) <= at + 7:
        return _HEADER + 2
    if octets[at + 7] != 0x68:
        return 0
    return _HEADER + 2 + (octets[at + 9] if len(octets) > at + 9 else 0)


def parse(frame: bytes) -> Frame:
    """Return what a whole frame without preamble says."""
    return Frame(frame[6:0:-1].hex().upper(), frame[8], frame[_HEADER:-2].translate(_UNSHIFT))


def reasons(refusal: Frame, version: str = "2007") -> str:
    """Return in words why a meter refused."""
    bits = refusal.data[0] if refusal.data else 0
    return ", ".join(_named(bits, version)) or "it gives no reason"


def has_no_such_data(refusal: Frame) -> bool:
    """Return whether a meter says that it does not know the data identifier."""
    return bool(refusal.data) and bool(refusal.data[0] & 0x02)


def _named(bits: int, version: str) -> Iterator[str]:
    yield from (word for bit, word in enumerate(_REASONS[version]) if bits >> bit & 1)
