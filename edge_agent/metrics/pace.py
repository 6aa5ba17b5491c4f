"""How far a counter may step: by its rated power, or by how fast it has counted so far.

A counter with ``max_rate`` may step as far as that allows for. Of one without, the fastest rate of
its accepted steps is kept, each over the time between its readings and one period: a row that came
early, or twice, makes nothing fast. It may step ``FACTOR`` times as far as that rate allows for; a
longer step is a question (see ``counters``), and so is the first step of all. The readings held
back may go on from each other ``FACTOR`` times as fast as the first of them did from the last
accepted one; one that is back above that does not go on from one below it. When they are confirmed,
the step is

- **believed** and booked if they went on at least at 1/``FACTOR`` of its rate: a load that began;
- believed if it is at most ``SHARE`` of the old reading, so nothing like a lifetime total: a load
  that ended before it could be confirmed;
- believed if it is below the old reading and at most ``FACTOR`` times as fast as a step before that
  was not believed, with no fall between them: this is how the counter counts, in large counts with
  many readings between them;
- otherwise another meter, or a total that came late: a reset, and nothing is booked.

A fall is a rollover if the step over the modulus is within the rated power. Without one, if it is
at most ``OUTAGE`` times the fastest rate, as it is after an outage; or if it went from the modulus'
top tenth to its bottom tenth and is at most ``SHARE`` of the modulus, or within what is allowed, or
went on as a load that began does.

A believed step counts for the fastest rate, others do not. So of a counter whose first step is a
large count no more than two counts are left out, marked as resets, and then none.
"""

import numpy as np
from numpy.typing import NDArray

from edge_agent.metrics.base import State
from edge_agent.metrics.held import floats, kept
from edge_agent.model import F64, Tag

FACTOR = 10.0
SHARE = 0.01
LARGEST = 1e11  # modulus of a register with eight digits, with its transformers; not of 64 bits
OUTAGE = 3.0  # times the fastest rate, which is that over a period more than there was
TOP = 0.9  # of the modulus: where a counter that rolls over stands before

Mask = NDArray[np.bool_]
Some = NDArray[np.intp] | Mask


def count_of(tag: Tag) -> float:
    """Return what one count is, of eight digits if it is not known of how many; 0: not known."""
    if tag.resolution is not None:
        return tag.resolution
    return 1e-8 * tag.modulus if tag.modulus is not None and tag.modulus <= LARGEST else 0.0


class Pace:
    """What is allowed to c counters; times are seconds between readings and one period."""

    def __init__(self, tags: tuple[Tag, ...]) -> None:
        self.learns: Mask = np.array([tag.max_rate is None for tag in tags], bool)
        self._learning = bool(self.learns.any())
        self._scale = np.where(self.learns, FACTOR, 0.0)
        self._rate = np.array([tag.max_rate or 0.0 for tag in tags])  # allowed, not the fastest
        self._unbelieved = np.zeros(len(tags))  # rate of the last step that was not believed
        counts = np.array([count_of(tag) for tag in tags])
        self._slack = 2.0 * counts  # what a step may exceed the rate by
        self._relative = np.where(counts > 0, 0.0, 2.0**-20)  # or float32's resolution

    # rows ----------------------------------------------------------------------------------------

    def allows(self, step: F64, seconds: F64, reading: F64, backward: Mask | None) -> Mask:
        """Return which steps to a reading are allowed; backward: who may fall too; all (c,)."""
        allowed = self._rate * seconds
        allowed += self._slack + self._relative * np.abs(reading)
        lowest = 0.0 if backward is None else np.where(backward, -allowed, 0.0)
        return (step >= lowest) & (step <= allowed)

    def learn(self, chosen: Some | None, step: F64, seconds: F64) -> None:
        """Take note of accepted steps (c,) of all counters, or of some of them."""
        if not self._learning:
            return
        if chosen is None:
            np.maximum(self._rate, self._scale * step / seconds, out=self._rate)
            return
        faster = self._scale[chosen] * step[chosen] / seconds[chosen]
        self._rate[chosen] = np.maximum(self._rate[chosen], faster)

    def take(self, some: "slice | Mask", steps: F64, seconds: F64, reading: F64) -> bool:
        """Take note of several steps each, (some, n), or return False if one is not allowed."""
        allowed = self._rate[some, None] * seconds
        allowed += self._slack[some, None] + self._relative[some, None] * np.abs(reading)
        if not ((steps >= 0) & (steps <= allowed)).all():
            return False
        if self._learning:
            faster = (self._scale[some, None] * steps / seconds).max(axis=1)
            self._rate[some] = np.maximum(self._rate[some], faster)
        return True

    # one counter ---------------------------------------------------------------------------------

    def allowed(self, c: int, seconds: float, reading: float, rate: float = 0.0) -> float:
        """Return how far a counter may step to a reading; rate: if higher than its own."""
        rate = max(float(self._rate[c]), rate)
        return rate * seconds + float(self._slack[c] + self._relative[c] * abs(reading))

    def learn_one(self, c: int, step: float, seconds: float) -> None:
        """Take note of an accepted step."""
        if self.learns[c]:
            self._rate[c] = max(self._rate[c], FACTOR * step / seconds)

    def among_suspects(self, c: int, step: float, seconds: float) -> float:
        """Return the rate allowed between readings held back, the first of which is a step away."""
        if not self.learns[c]:
            return 0.0
        return FACTOR * step / seconds if step > 0 else np.inf

    def believes(self, c: int, old: float, step: float, seconds: float, went_on: float) -> bool:
        """Return whether a confirmed step upward is a load; went_on: rate of what followed it."""
        rate = step / seconds
        if went_on * FACTOR >= rate or step <= SHARE * abs(old):
            return True
        if step > old:
            return False
        believed = rate <= FACTOR * float(self._unbelieved[c])
        self._unbelieved[c] = rate
        return believed

    def turns_over(
        self, c: int, levels: tuple[float, float, float], seconds: float, went_on: float
    ) -> bool:
        """Return whether a fall is a rollover: of how far it stepped over the modulus.

        levels   the old reading, the new one and the modulus
        went_on  rate of what followed it
        """
        old, new, modulus = levels
        step = modulus - old + new
        if np.isinf(modulus) or step < 0.0 or new < 0.0:
            return False
        if not self.learns[c]:
            return step <= self.allowed(c, seconds, new)
        if step <= OUTAGE * float(self._rate[c]) / FACTOR * seconds:
            return True
        if old < TOP * modulus or new > (1.0 - TOP) * modulus:
            return False
        believed = step <= SHARE * modulus or went_on * FACTOR >= step / seconds
        return believed or step <= self.allowed(c, seconds, new)

    def fell(self, c: int) -> None:
        """Take note of a reset downward: what was not believed may come back after it."""
        self._unbelieved[c] = 0.0

    # the state -----------------------------------------------------------------------------------

    def save(self) -> State:
        return {"rate": kept(self._rate), "unbelieved": kept(self._unbelieved)}

    def load(self, state: State) -> None:
        """Take over what was learned; a rated power is the configuration's."""
        self._rate = np.where(self.learns, floats(state, "rate"), self._rate)
        self._unbelieved = floats(state, "unbelieved")
