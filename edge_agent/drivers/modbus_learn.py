"""Finding out, while a stream is read, which of its registers a Modbus device refuses; pure.

A request that is refused (exceptions 2, 3, 4) is taken apart: its halves are asked by themselves,
the halves of a half that is refused as well, down to single registers. Parts that are in doubt are
left out of the plan and asked behind it, as far as the driver has time to spare for it, so that
neither the rest of the device nor other devices wait; what answers is read with the others again.

A device that starts, or whose measuring part is away, refuses what it will answer later. So a
single register is only called dead when it was refused in several scans in which others answered:
two, or three and five seconds if it had answered before. A request that had answered before and of
which no part does now is put together again, for a minute. And when the first part of a request
answers in a later scan, the whole is asked again before its other parts.

What can be read in halves but not as a whole, again and again, has either a border between the
halves or is too long: the two registers beside the cut are asked together, and tell which. If it is
too long, parts of it that begin where it does tell how much is not (``modbus_trials``).

A request without any answer spoils its scan, and the unit's breaker takes over. If the device
answered to other requests before this one failed again, it is taken apart in the same way: some
devices say nothing to what they do not know, some cannot cope with long requests (peers 20).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from edge_agent.drivers.modbus_address import Table
from edge_agent.drivers.modbus_lessons import NONSENSE, SILENCE, Lessons, quality_of
from edge_agent.drivers.modbus_parts import (
    Columns,
    Cut,
    Root,
    Scan,
    State,
    Suspect,
    halves,
    is_one,
    within,
)
from edge_agent.drivers.modbus_plan import Bounds, ReadPlan, Request
from edge_agent.drivers.modbus_register import Span
from edge_agent.drivers.modbus_trials import NOWHERE, Trials
from edge_agent.model import U8, Quality


class Make(Protocol):
    """How a stream's plan is made."""

    def __call__(self, bounds: Bounds, suspects: Sequence[Columns]) -> ReadPlan: ...


REFUSALS = frozenset({2, 3, 4})  # exceptions that may be about some of the registers asked for
MOST_IN_A_SCAN = 24  # requests beside the plan
HOPELESS = 6  # refusals in a row, and no answer, after which a scan asks no further
STRIKES, STRIKES_PROVED, LASTING = 2, 3, 5.0  # scans; and seconds, for what had answered before
TOGETHER_AGAIN = 60.0  # seconds for which a request that had answered is put together again
WHOLE_AGAIN = 10.0  # seconds before the whole is asked again because a part answered
SILENCES = 2  # of one request, with other answers in between
TOGETHER = 3  # times that a whole is refused whose halves answer


class Inquiry:
    """One stream: its plan as far as the device is known, and what is being found out.

    A scan is ``begin``, then ``answered``, ``refused`` or ``silent`` for every request of the plan
    and for those that ``further`` gives, then ``end``. A scan without ``end`` taught nothing.
    """

    def __init__(self, make: Make, lessons: Lessons) -> None:
        self._make, self._lessons = make, lessons
        self._state, self._trials = State(), Trials(lessons)
        self._before: State | None = None  # while a scan goes on: what was open at its beginning
        self._now = 0.0
        self._scan = Scan()
        self._mute: tuple[Request, int] | None = None  # not answered; what had been heard by then
        self._silences: dict[Span, int] = {}
        self._wholes: set[Span] = set()  # requests that were answered
        self._unheard_at: int | None = None  # what had been heard by the last scan without answer
        self._is_calm = False  # nothing is open, all answers: a scan costs nothing here
        self._proved = False
        self._plan()

    def _plan(self) -> None:
        """Make the plan anew from what is known."""
        self._built = self._basis()
        _, suspects, cuts = self._built
        bounds = self._lessons.bounds
        bounds = replace(bounds, borders=bounds.borders | cuts)
        self.plan = self._make(bounds, suspects)
        self._proved = False
        lost = np.zeros((1, len(self.plan.registers)), np.uint8)
        for request in self.plan.suspects:
            code = self._state.suspects[request.columns].code
            lost[0, request.columns] = quality_of(code, alone=is_one(request, self.plan.registers))
        for request in self.plan.dead:
            lost[0, request.columns] = self._lessons.refused[request.span].quality
        self._lost = lost

    def _basis(self) -> tuple[int, tuple[Columns, ...], frozenset[tuple[Table, int]]]:
        """Return all that a plan depends on; a cut in question is a border until it is answered."""
        return self._lessons.version, tuple(self._state.suspects), self._trials.borders

    @property
    def _is_hopeless(self) -> bool:
        """True when the device refuses whatever it is asked."""
        return not self._scan.good and self._scan.in_row >= HOPELESS

    @property
    def lost(self) -> U8:
        """The qualities of a row's columns before anything is answered, uint8 (1, k), to fill."""
        return self._lost.copy()

    @property
    def is_unheard(self) -> bool:
        """True when the device says nothing at all since a scan in which it was asked."""
        return self._unheard_at == self._lessons.heard

    # ---- a scan --------------------------------------------------------------------------

    def begin(self, now: float) -> ReadPlan:
        """Return the plan of the next scan; now is monotonic, in seconds."""
        self._now = now
        self._scan = Scan()
        if self._is_calm and self._lessons.version == self._built[0]:
            return self.plan
        if self._before is not None:
            self._state = self._before
        self._hear_of_silence()
        if self._built != self._basis():
            self._plan()
        self._start()
        due = [r for r in self.plan.dead if self._lessons.refused[r.span].due <= now]
        self._scan.further = deque([*self.plan.suspects, *due])
        suspects = self._built[1]
        relax = partial(self._make, suspects=suspects)
        self._scan.further += self._trials.begin(self.plan.registers, relax, now)
        return self.plan

    def _start(self) -> None:
        """Keep what is open now, in case the scan teaches nothing."""
        self._is_calm = False
        self._before = self._state.copy()

    def further(self) -> Request | None:
        """Return what may be asked beside the plan in this scan; None: nothing more."""
        if self._is_hopeless or self._scan.asked >= MOST_IN_A_SCAN:
            return None
        while self._scan.further:
            request = self._scan.further.popleft()
            in_doubt = request.columns in self._state.suspects
            if in_doubt or request.offset == NOWHERE or request in self.plan.dead:
                self._scan.asked += 1
                return request
        return None

    def answered(self, request: Request) -> None:
        """Note an answer."""
        self._scan.good.append(request)
        self._lessons.note(request, spoilt=False)
        if self._is_calm:
            return
        self._scan.in_row = 0
        state = self._state
        if request.offset == NOWHERE:
            if request.columns in state.roots:
                state.clear(request.columns)
                del state.roots[request.columns]
            else:
                self._ask(self._trials.answered(request))
            return
        state.suspects.pop(request.columns, None)
        for whole, cut in list(state.cuts.items()):
            if request.columns in {cut.left.columns, cut.right.columns}:
                heard = replace(cut, answered=cut.answered | {request.columns})
                state.cuts[whole] = heard
                if len(heard.answered) == 2:
                    del state.cuts[whole]
                    self._both_answered(heard)
        for columns, root in list(state.roots.items()):
            if set(columns).issubset(request.columns):
                del state.roots[columns]
            elif columns not in self._scan.wholes and set(columns).issuperset(request.columns):
                self._part_answered(root)

    def refused(self, request: Request, code: int) -> Quality:
        """Note a refusal; return what it makes of the request's columns."""
        if self._is_calm:
            self._start()
        self._scan.in_row += 1
        self._lessons.note(request, spoilt=code == NONSENSE)
        self._failed(request, code)
        return quality_of(code, alone=is_one(request, self.plan.registers))

    def silent(self, request: Request) -> Quality:
        """Note that there was no answer; with a request of the plan the scan is over."""
        if self._is_calm:
            self._start()
        self._scan.in_row += 1
        self._scan.silent += 1
        self._lessons.note(request, spoilt=True)
        if request in self.plan.requests:
            self._mute = request, self._lessons.heard
        else:
            self._failed(request, SILENCE)
            self._scan.further.clear()
        return Quality.BAD_NO_ANSWER

    def end(self) -> None:
        """Draw the conclusions of a scan."""
        self._lessons.heard += len(self._scan.good)
        if self._is_calm:
            return
        before, self._before = self._before, None
        self._put_together()
        if not self._scan.good and before is not None:
            self._forget_strikes(before)
        else:
            self._conclude()
        if self._scan.in_row > self._scan.silent or self._scan.good:
            self._unheard_at = None
        elif self._scan.silent:
            self._unheard_at = self._lessons.heard
        if self._built != self._basis():
            self._plan()
        closed = self._state.is_empty and self._trials.is_empty and not self._lessons.is_open
        self._is_calm = self._proved and closed and not (self._silences or self._mute)

    # ---- conclusions ---------------------------------------------------------------------

    def _failed(self, request: Request, code: int) -> None:
        """Take a request apart that was not answered, or count it against a register."""
        columns, state = request.columns, self._state
        if request in self.plan.dead:
            self._scan.probed[request.span] = code
            return
        if code not in REFUSALS and code != SILENCE:
            return  # busy, or nonsense: it says nothing about the registers
        if request.offset == NOWHERE:
            if self._scan.good:  # else the device may refuse whatever it is asked
                self._ask(self._trials.failed(request))
            return
        state.cuts = {
            whole: cut
            for whole, cut in state.cuts.items()
            if columns not in {cut.left.columns, cut.right.columns}
        }
        for whole in self._scan.wholes:
            self._scan.wholes[whole] += set(whole).issuperset(columns)
        suspect = state.suspects.pop(columns, None)
        parts = halves(request, self.plan.registers)
        if parts is None:
            since, strikes = (self._now, 0) if suspect is None else (suspect.since, suspect.strikes)
            state.suspects[columns] = Suspect(code, strikes + 1, since)
            return
        if suspect is None and request in self.plan.requests:
            self._scan.wholes[columns] = 0
            root = Root(request, request.span in self._wholes, self._now, self._now - WHOLE_AGAIN)
            state.roots.setdefault(columns, root)
        for part in parts:
            state.suspects[part.columns] = Suspect(code, 0, self._now)
            self._scan.further.append(part)
        left, right = parts
        if left.span != request.span:  # else a register over others, not two side by side
            state.cuts[columns] = Cut(request, left, right, code)

    def _put_together(self) -> None:
        """Undo the taking apart of requests that worked before and do not answer at all now."""
        state = self._state
        for columns, refusals in self._scan.wholes.items():
            root, whole = state.roots.get(columns), set(columns)
            answered = any(whole.issuperset(request.columns) for request in self._scan.good)
            # else it is too early to say
            tried = self._is_hopeless or refusals >= HOPELESS
            early = root is not None and self._now - root.since < TOGETHER_AGAIN
            if root is not None and root.proved and early and tried and not answered:
                state.clear(columns)
        for columns in list(state.roots):
            open_ = any(set(columns).issuperset(suspect) for suspect in state.suspects)
            if not open_ and columns not in self._scan.wholes:
                del state.roots[columns]

    def _forget_strikes(self, before: State) -> None:
        """Hold nothing against single registers: the device answered to nothing."""
        for columns, suspect in self._state.suspects.items():
            fresh = replace(suspect, strikes=0, since=self._now)
            self._state.suspects[columns] = before.suspects.get(columns, fresh)

    def _conclude(self) -> None:
        state, lessons = self._state, self._lessons
        if state.together or self._silences:
            self._forgive()
        for span, code in self._scan.probed.items():
            if span in lessons.refused:
                lessons.still_refused(span, code, self._now)
        if lessons.refused:
            for request in self._scan.good:
                if request.span in lessons.refused and request.offset != NOWHERE:
                    lessons.revive(request.span, self._now)
        self._judge()
        if not self._proved:
            self._prove()

    def _judge(self) -> None:
        """Call those registers dead that were refused often enough."""
        for columns, suspect in list(self._state.suspects.items()):
            if suspect.strikes == 0:
                continue
            span = self.plan.registers[columns[0]].span
            if span in self._lessons.refused:  # another stream was quicker
                del self._state.suspects[columns]
                continue
            proved = span in self._lessons.proved
            lasting = not proved or self._now - suspect.since >= LASTING
            if suspect.strikes >= (STRIKES_PROVED if proved else STRIKES) and lasting:
                del self._state.suspects[columns]
                self._lessons.bury(span, suspect.code, self._now)

    def _forgive(self) -> None:
        """Forget what was held against requests that are now answered as a whole."""
        good = [request.span for request in self._scan.good if request.offset != NOWHERE]
        for held in (self._state.together, self._silences):
            for span in [s for s in held if any(within(s, answered) for answered in good)]:
                del held[span]

    def _hear_of_silence(self) -> None:
        """Take a request apart that is not answered again and again while others are."""
        if self._mute is None or self._lessons.heard <= self._mute[1]:
            return
        request, self._mute = self._mute[0], None
        times = self._silences.get(request.span, 0) + 1
        self._silences[request.span] = times
        if times >= SILENCES and request in self.plan.requests:
            del self._silences[request.span]
            self._failed(request, SILENCE)

    def _prove(self) -> None:
        """Remember what has answered."""
        columns = {i for request in self._scan.good for i in request.columns}
        self._lessons.proved.update(self.plan.registers[i].span for i in columns)
        self._wholes.update(request.span for request in self._scan.good)
        self._proved = len(columns) >= sum(len(r.columns) for r in self.plan.requests)

    def _part_answered(self, root: Root) -> None:
        """Ask the whole again: whatever was the matter with the device may be over."""
        columns = root.whole.columns
        if self._now - root.tried >= WHOLE_AGAIN:
            self._state.roots[columns] = replace(root, tried=self._now)
            whole = root.whole.part(self.plan.registers, columns)
            self._scan.further.appendleft(replace(whole, offset=NOWHERE))

    def _both_answered(self, cut: Cut) -> None:
        """Find out, when it is no accident, why a whole is refused whose halves are not."""
        span, together = cut.whole.span, self._state.together
        together[span] = together.get(span, 0) + 1
        if together[span] >= TOGETHER or cut.code == SILENCE:
            del together[span]
            self._ask(self._trials.question(cut))

    def _ask(self, experiment: Request | None) -> None:
        if experiment is not None:
            self._scan.further.append(experiment)
