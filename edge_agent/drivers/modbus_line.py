"""What a Modbus link is, and how the units on it want to be treated."""

from dataclasses import dataclass, fields

BEHIND = 9600  # baud of a line that the address does not tell


@dataclass(frozen=True)
class Line:
    """What all devices of one link share."""

    scheme: str
    host: str
    port: int
    baud: int
    parity: str
    stopbits: int
    bytesize: int

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.host if self.is_serial else f"{self.host}:{self.port}"

    @property
    def is_serial(self) -> bool:
        """True for a serial line of this box."""
        return self.scheme == "modbus+rtu"

    @property
    def is_rtu(self) -> bool:
        """True where answers carry no transaction id."""
        return self.scheme != "modbus+tcp"

    @property
    def silence(self) -> float:
        """Seconds between two frames on a wire at least.

        source  MODBUS over Serial Line V1.02, 2.5.1.1: 3.5 characters of 11 bits, fixed at 1.75 ms
                above 19200 baud
        """
        return max(0.00175, 3.5 * 11 / self.baud) if self.is_serial else 0.0

    def airtime(self, answer: int) -> float:
        """Seconds that a request and its answer of so many bytes take on a wire.

        That behind a converter or gateway is taken to be as slow as most are.
        """
        return 11 * (8 + answer) / (self.baud if self.is_serial else BEHIND)

    def difference(self, other: "Line") -> str:
        """Return in words what differs from another line."""
        return ", ".join(
            f"{f.name} is {getattr(self, f.name)} here and {getattr(other, f.name)} there"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        )


@dataclass(frozen=True)
class Manners:
    """How one unit wants to be treated; times in seconds."""

    timeout: float
    pause: float
