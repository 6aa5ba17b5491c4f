"""How long the answer of one Modbus unit is waited for; pure.

The configured time-out is where it begins. From then on the unit's own round trips tell, as for
TCP's retransmission timer: their smoothed mean and four times their mean deviation. When a unit
that has answered until now does not within that time, it is asked once more, and has the rest of
its limit to answer. (Over TCP nothing is lost on the way, so it is asked again late, and only where
nobody else waits.) One that was silent the last time is asked once only, and not for long: it is
probably dead, and others wait. Every fourth time it is given all the time there is, for it may have
come back slower than it was.

The limit is the configured time-out where the unit has the link to itself. An answer that comes
after it, as from a device that stalls now and then, raises it for good, to at most ``GROWTH`` times
the configured time-out. Where others wait the limit is less for a unit that is known to be quick,
and never more than the configured time-out: a slow unit must not make theirs late.

Source: RFC 6298, 2 and 5.5; P. Karn and C. Partridge, "Improving Round-Trip Time Estimates in
Reliable Transport Protocols", 1987 (an answer that may belong to either of two requests is no
measurement).
"""

FLOOR = 0.1  # seconds; no unit is given up sooner, unless its configured time-out is shorter
ALONE = 0.3  # the same where nobody else waits for the link
GROWTH = 4.0  # a limit is never more than so many configured time-outs
LEAST = 0.5  # seconds; a unit that is well is not given up sooner either, be it ever so quick
FULL = 4  # each so many silences a unit is waited for as long as for one that is well
MARGIN = 1.25  # an answer that was late may be so much later the next time


class Patience:
    """The round trips of one unit; all times in seconds.

    timeout  as configured
    alone    nobody else waits for the link
    loses_frames  the link does; TCP does not, what is behind it may

    most     what the limit can be at most as things stand
    usual    within what time an answer can be expected
    limit    how long one request may take in all
    first    how long until it is asked again; the limit where it is not
    """

    def __init__(self, timeout: float, *, alone: bool, loses_frames: bool) -> None:
        self._configured = timeout
        self._alone, self._loses_frames = alone, loses_frames
        self._mean: float | None = None
        self._deviation = 0.0
        self._latest = self._seen_late = 0.0  # the slowest answer that came too late
        self._silences = 0
        self.most = self.usual = self.limit = self.first = timeout

    @property
    def is_well(self) -> bool:
        """Whether it answered the last time, or was not asked yet."""
        return not self._silences

    @property
    def stale(self) -> float:
        """How long after a silence an answer may still come."""
        return 2 * self.most

    def answered(self, took: float | None, *, at_once: bool = True) -> None:
        """Note an answer.

        took     None where it is not known which request it answers
        at_once  the unit was asked once and nothing else was under way: it is in step
        """
        self._silences = 0
        if at_once:
            self._latest = max(self._latest, self._seen_late)
        self._seen_late = 0.0
        if took is not None:
            if self._mean is None:
                self._mean, self._deviation = took, took / 2
            else:
                self._deviation += (abs(self._mean - took) - self._deviation) / 4
                self._mean += (took - self._mean) / 8
        self._conclude()

    def silent(self) -> None:
        """Note a request that was given up."""
        self._silences += 1
        self._seen_late = 0.0
        self._conclude()

    def late(self, took: float) -> None:
        """Note an answer to a request that had been given up.

        It counts once the unit has answered at once: one that holds its answers back until it is
        asked again is not slow.
        """
        self._seen_late = max(self._seen_late, took)

    def _conclude(self) -> None:
        """Work out the bounds of the next request; once per answer, so without detours."""
        growth = GROWTH if self._alone else 1.0
        learnt = min(MARGIN * self._latest, growth * self._configured)
        self.most = most = max(self._configured, learnt)
        if self._mean is None:
            self.usual = self.limit = self.first = most
            return
        usual = max(ALONE if self._alone else FLOOR, self._mean + 4 * self._deviation)
        self.usual = usual = min(most, usual)
        if self._silences:
            least = most if self._silences % FULL == 0 else 2 * usual
            self.first = self.limit = min(most, max(least, learnt))
            return
        limit = most if self._alone else min(most, max(3 * usual, LEAST, learnt))
        self.limit = self.first = limit
        if 2 * usual <= limit:
            if self._loses_frames:
                self.first = usual
            elif self._alone:
                self.first = limit / 2
