"""The states of an alarm and what leads from one to another (ISA-18.2-2016, figure 4; IEC 62682).

A pure machine: a situation and an event make the next situation. The condition of the process
(``active``) is followed at all times; what the operator is told stands apart from it, and while the
alarm is shelved, suppressed by design or out of service nothing is told. When that ends, an active
condition is announced anew, as the standard wants it.
"""

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum


class AlarmState(IntEnum):
    """What is shown; the numbers are stored and published: they are never changed."""

    NORMAL = 0  # A
    UNACKNOWLEDGED = 1  # B: active, nobody has taken notice
    ACKNOWLEDGED = 2  # C: active, somebody has
    RETURNED = 3  # D: the process is back to normal, nobody has taken notice
    LATCHED = 4  # E: back to normal, but held until it is reset; not acknowledged
    LATCHED_ACKNOWLEDGED = 5  # F
    SHELVED = 6  # G: put away by a person, for a time
    SUPPRESSED = 7  # H: by design, because of the plant's state
    OUT_OF_SERVICE = 8  # I: taken out by hand, for maintenance


class AlarmEvent(StrEnum):
    """What can happen to an alarm."""

    OCCUR = "occur"
    CLEAR = "clear"
    ACKNOWLEDGE = "acknowledge"
    RESET = "reset"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    SUPPRESS = "suppress"
    UNSUPPRESS = "unsuppress"
    REMOVE = "remove"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Rules:
    """How an alarm behaves.

    acknowledge  a person must take notice; otherwise it goes back to normal by itself
    latch        it is held after the return to normal until it is reset
    """

    acknowledge: bool = False
    latch: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """All that matters of an alarm.

    active     the condition, after delays and deadband
    announced  what the operator is told: one of the states 0 to 5
    """

    active: bool = False
    announced: AlarmState = AlarmState.NORMAL
    shelved: bool = False
    suppressed: bool = False
    removed: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing is announced."""
        return self.shelved or self.suppressed or self.removed

    @property
    def state(self) -> AlarmState:
        """What is shown; out of service hides suppressed, which hides shelved."""
        if self.removed:
            return AlarmState.OUT_OF_SERVICE
        if self.suppressed:
            return AlarmState.SUPPRESSED
        return AlarmState.SHELVED if self.shelved else self.announced


_ACKNOWLEDGED = {
    AlarmState.UNACKNOWLEDGED: AlarmState.ACKNOWLEDGED,
    AlarmState.RETURNED: AlarmState.NORMAL,
    AlarmState.LATCHED: AlarmState.LATCHED_ACKNOWLEDGED,
}
_FLAGS = {
    AlarmEvent.SHELVE: ("shelved", True),
    AlarmEvent.UNSHELVE: ("shelved", False),
    AlarmEvent.SUPPRESS: ("suppressed", True),
    AlarmEvent.UNSUPPRESS: ("suppressed", False),
    AlarmEvent.REMOVE: ("removed", True),
    AlarmEvent.RESTORE: ("removed", False),
}


def after(situation: Situation, event: AlarmEvent, rules: Rules) -> Situation:
    """Return the situation after an event; one that does not apply changes nothing."""
    if event in _FLAGS:
        return _quieted(situation, *_FLAGS[event])
    active, announced = situation.active, situation.announced
    if event in {AlarmEvent.OCCUR, AlarmEvent.CLEAR}:
        active = event is AlarmEvent.OCCUR
    if situation.quiet:
        return replace(situation, active=active)
    if active and not situation.active:
        announced = AlarmState.UNACKNOWLEDGED
    elif situation.active and not active:
        announced = _cleared(announced, rules)
    elif event is AlarmEvent.ACKNOWLEDGE:
        announced = _ACKNOWLEDGED.get(announced, announced)
    elif event is AlarmEvent.RESET:
        announced = _reset(announced, rules)
    return replace(situation, active=active, announced=announced)


def _quieted(situation: Situation, flag: str, on: bool) -> Situation:
    """Return the situation with one of the reasons for silence given or taken away."""
    changed = replace(situation, **{flag: on})  # type: ignore[arg-type]  # all of them are bool
    if changed.quiet:
        return replace(changed, announced=AlarmState.NORMAL)
    if not situation.quiet:
        return situation
    told = AlarmState.UNACKNOWLEDGED if changed.active else AlarmState.NORMAL
    return replace(changed, announced=told)


def _cleared(announced: AlarmState, rules: Rules) -> AlarmState:
    if announced is AlarmState.ACKNOWLEDGED:
        return AlarmState.LATCHED_ACKNOWLEDGED if rules.latch else AlarmState.NORMAL
    if rules.latch:
        return AlarmState.LATCHED
    return AlarmState.RETURNED if rules.acknowledge else AlarmState.NORMAL


def _reset(announced: AlarmState, rules: Rules) -> AlarmState:
    if announced is AlarmState.LATCHED:
        return AlarmState.RETURNED if rules.acknowledge else AlarmState.NORMAL
    return AlarmState.NORMAL if announced is AlarmState.LATCHED_ACKNOWLEDGED else announced
