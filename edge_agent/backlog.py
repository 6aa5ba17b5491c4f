"""How long it takes until what waits has been delivered, at the pace of the last minute."""

from collections import deque

SPAN = 60.0  # seconds that the pace is taken over
LEAST = 5.0  # seconds without which there is none


class Backlog:
    """The rows that wait for one sink, as they were seen from time to time."""

    def __init__(self) -> None:
        self._seen = deque[tuple[float, int]]()
        self._is_split = False

    def note(self, at: float, waiting: int, backlog: int) -> None:
        """Take over how many rows wait at a time, in seconds.

        backlog  how many of them stand behind live rows in a lane of their own; then only these
                 are to be caught up with
        """
        if self._is_split != (backlog > 0):
            self.forget()
            self._is_split = backlog > 0
        self._seen.append((at, backlog or waiting))
        while at - self._seen[0][0] > SPAN:
            self._seen.popleft()

    def forget(self) -> None:
        """Begin anew: what was seen so far says nothing of what comes."""
        self._seen.clear()

    @property
    def remaining(self) -> float | None:
        """Seconds until nothing waits any more; None when it does not get less."""
        if not self._seen:
            return None
        (begin, before), (end, now) = self._seen[0], self._seen[-1]
        if end - begin < LEAST or now >= before:
            return None
        return now * (end - begin) / (before - now)
