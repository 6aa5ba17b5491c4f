"""Frames that begin with 68H and end with a sum and 16H, found in a stream of bytes; pure.

DL/T 645 and CJ/T 188 share this form and differ in the header. A line brings noise, preambles
(FEH), frames in pieces and several at once; and 68H also occurs within frames. So every 68H may
be a beginning, the sum and the end decide, and a whole frame is found even where one that was
broken off before it would reach over it.
"""

from collections.abc import Callable

START, END = 0x68, 0x16
PREAMBLE = b"\xfe" * 4
NOT_AVAILABLE = 0xFF  # what a meter fills a value with that it does not have

Size = Callable[[bytes, int], int]
"""(octets, index of a 68H) -> length of the frame that begins there, as far as its header is
there; 0 if none does."""


def sealed(body: bytes) -> bytes:
    """Return preamble, body (from the first 68H on), its sum and the end mark."""
    return PREAMBLE + body + bytes((sum(body) & 0xFF, END))


def is_whole(frame: bytes) -> bool:
    """Return whether sum and end mark of a frame without preamble are right."""
    return frame[-1] == END and sum(frame[:-2]) & 0xFF == frame[-2]


def digits(octets: bytes) -> int | None:
    """Return the number of BCD digits, the lowest byte first; None if a digit is none."""
    text = octets[::-1].hex()
    return int(text) if text.isdecimal() else None


class Scanner:
    """Finds the frames in what arrives piece by piece.

    garbled  whether something came since the last ``clear`` that was a frame but for its sum
    """

    def __init__(self, size: Size) -> None:
        self.garbled = False
        self._size = size
        self._pending = b""

    @property
    def is_amid(self) -> bool:
        """True while something has begun that may become a frame."""
        return bool(self._pending)

    def feed(self, octets: bytes) -> list[bytes]:
        """Return the frames that are whole now, without preambles."""
        frames: list[bytes] = []
        pending = self._pending + octets
        unfinished = -1  # the first beginning that more bytes may complete
        at = pending.find(START)
        while at >= 0:
            size = self._size(pending, at)
            step = 1
            if size and at + size > len(pending):
                unfinished = at if unfinished < 0 else unfinished
            elif size and is_whole(pending[at : at + size]):
                frames.append(pending[at : at + size])
                unfinished, step = -1, size
            elif size:
                self.garbled = True
            at = pending.find(START, at + step)
        self._pending = pending[unfinished:] if unfinished >= 0 else b""
        return frames

    def clear(self) -> int:
        """Forget what is unfinished; return how many bytes that were."""
        dropped, self._pending = len(self._pending), b""
        self.garbled = False
        return dropped
