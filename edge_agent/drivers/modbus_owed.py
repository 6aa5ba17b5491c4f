"""Which answers a unit still owes over RTU, where an answer does not say what it answers; pure.

Of an unanswered request it is known neither whether its answer is lost, late, or held back until
the unit is asked again: there are devices and converters that stay one answer behind, or more. All
that tells answers apart is their function and length. A unit answers in the order in which it was
asked; so an answer of a length that it does not owe shows that nothing older is under way: the unit
is in step.

Until that is shown, what is wanted is asked for only after a request of such a length (``apart``).
Exceptions have no length: where that one is refused, one of another function shows it, also by an
exception (``of_another_function``). Where nothing comes at several of these, not even late, nothing
is held back: a unit may be silent to all that it does not know. For two time-outs a request like
the unanswered one is not sent at all: a unit that is merely slow must not be pressed.
"""

from dataclasses import dataclass, field, replace

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_frames import Shape
from edge_agent.drivers.modbus_plan import MAX_REGISTERS, Request

KEPT = 8  # times of unanswered requests of one shape


@dataclass
class _Debt:
    """Requests of one shape: when they were sent, and until when their answers are waited for."""

    times: list[float] = field(default_factory=list)
    until: float = 0.0
    is_brief: bool = False


class Owed:
    """The answers that the units of one line owe; all times in seconds of one clock."""

    def __init__(self) -> None:
        self._debts: dict[Shape, _Debt] = {}

    def __contains__(self, shape: Shape) -> bool:
        return shape in self._debts

    def owes(self, unit: int) -> bool:
        """Return whether a unit is not known to be in step."""
        return bool(self._debts) and any(shape.unit == unit for shape in self._debts)

    def add(self, shape: Shape, times: list[float], until: float, *, is_brief: bool) -> None:
        """Note requests without an answer.

        is_brief  the answers are so near that it is worth waiting for them
        """
        debt = self._debts.setdefault(shape, _Debt())
        debt.times = (debt.times + times)[-KEPT:]
        debt.until, debt.is_brief = until, is_brief

    def came(self, shape: Shape, now: float) -> float | None:
        """Note a frame that nobody waited for; return how late it is, None if it was not owed."""
        debt = self._debts.get(shape)
        if debt is None:
            return None
        late = now - debt.times.pop(0)
        if not debt.times:
            del self._debts[shape]
        return late

    def forget(self, unit: int) -> None:
        """Note that a unit is in step."""
        if self._debts:
            self._debts = {s: debt for s, debt in self._debts.items() if s.unit != unit}

    def wait(self, shape: Shape, now: float) -> tuple[float, bool]:
        """Return for how long a request of this shape must not be sent, and if that is brief."""
        debt = self._debts.get(shape)
        return (0.0, True) if debt is None else (max(0.0, debt.until - now), debt.is_brief)

    def apart(self, unit: int, request: Request) -> Request:
        """Return a request like this one, of which the answer's length is not owed.

        A shorter one where there is any: it asks for nothing that may not be read.
        """
        step = 8 if request.table.is_bits else 1
        shorter = range(request.count - step, 0, -step)
        longer = range(request.count + step, step * MAX_REGISTERS, step)
        counts = (count for span in (shorter, longer) for count in span)
        return next(
            other
            for other in (replace(request, count=count) for count in counts)
            if Shape.of(unit, other) not in self._debts
        )

    def of_another_function(self, unit: int, request: Request) -> Request | None:
        """Return a request for one word or bit by a function of which nothing is owed."""
        used = {shape.function for shape in self._debts if shape.unit == unit}
        used.add(request.table.function)
        free = [table for table in Table if table.function not in used]
        return replace(request, table=free[-1], count=1) if free else None

    def wider(self, unit: int, request: Request, now: float) -> Request:
        """Return a request for a sign of life that may be sent now: it, or up to 3 words more."""
        step = 8 if request.table.is_bits else 1
        wider = [replace(request, count=request.count + more * step) for more in range(4)]
        return next((r for r in wider if self.wait(Shape.of(unit, r), now)[0] == 0.0), request)
