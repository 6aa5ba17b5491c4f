"""A serial cable without hardware: two pseudo terminals, each says what the other hears."""

import asyncio
import os
import tty
from types import TracebackType


class Cable:
    """Two ends that any program opens like a serial port; both are there until it is closed.

    ours, theirs  the paths of the two ends
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        pairs = [os.openpty(), os.openpty()]
        # Our own descriptors of the far ends stay open: with none, a read of the near end fails.
        self._descriptors = [descriptor for pair in pairs for descriptor in pair]
        self._near = [near for near, _far in pairs]
        self.ours, self.theirs = (os.ttyname(far) for _near, far in pairs)
        for near, far in pairs:
            tty.setraw(far)
            os.set_blocking(near, False)
        for here, there in (self._near, self._near[::-1]):
            self._loop.add_reader(here, self._copy, here, there)

    @staticmethod
    def _copy(here: int, there: int) -> None:
        try:
            os.write(there, os.read(here, 4096))
        except BlockingIOError:
            return  # nobody reads at the other end: a line has no memory either

    def close(self) -> None:
        """Take both ends away; any number of times."""
        for near in self._near:
            self._loop.remove_reader(near)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._near, self._descriptors = [], []

    def __enter__(self) -> "Cable":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
