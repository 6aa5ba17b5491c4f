"""Alarms: conditions over tags and metrics, with delay, deadband and the states of ISA-18.2.

``alarms: nox-near-limit: {when: "kiln-stack.nox_corrected_1h > 90", delay: 1min, deadband: 5}``

What is judged, and when, is in ``conditions.py``, the states are in ``alarm_states.py``, the rows
in ``alarm_rows.py``.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from edge_agent.metrics.alarm_rows import Alarm, Settings, alarm_tags
from edge_agent.metrics.alarm_states import Rules
from edge_agent.metrics.aligned import Names, found
from edge_agent.metrics.base import (
    SILENCE,
    Metric,
    MetricConfig,
    Mistakes,
    Plant,
    Reference,
    Window,
)
from edge_agent.metrics.computed import Path, text_faults, used_in
from edge_agent.metrics.conditions import Condition, Delays, Limited, Stale, Truth
from edge_agent.metrics.expression import Expression, ExpressionError
from edge_agent.metrics.grammar import compiled
from edge_agent.metrics.tokens import tokens
from edge_agent.model import Family, Schema
from edge_agent.units import Duration

Priority = Literal["journal", "low", "medium", "high", "critical"]
PRIORITIES: tuple[Priority, ...] = ("journal", "low", "medium", "high", "critical")
_DAY = 86400.0
_WINDOWS = {"_15min": "15min", "_1h": "1h", "_1d": "24h"}
_LONG = ("when", "forecast")
_SHORT = ("high", "low", "rate", "stale")


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """Put away until a time, in the site's zone: ``2026-12-01T08:00``; reason: for the reader."""

    until: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class AlarmConfig(MetricConfig):
    """An alarm: one condition, and how it behaves.

    when        an expression; a comparison tells value and limit, and can have a deadband
    tag         what ``high``, ``low``, ``rate`` (per second, both ways) and ``stale`` are about
    forecast    a comparison of an hour's or quarter's mean that it will have at its end
    delay       how long the condition must hold; off_delay: how long it must be over
    deadband    how far the value must come back, in the unit of the left side
    suppress    an expression: while it is true, the alarm is suppressed by design
    """

    kind: ClassVar[str] = "alarm"
    section: ClassVar[str] = "alarms"

    windows: tuple[Window, ...] = ()
    when: str | None = None
    tag: str | None = None
    high: float | str | None = None
    low: float | str | None = None
    rate: float | str | None = None
    stale: Duration | None = None
    forecast: str | None = None
    delay: Duration = Duration(0)
    off_delay: Duration = Duration(0)
    deadband: float = 0.0
    priority: Priority = "medium"
    acknowledge: bool = False
    latch: bool = False
    suppress: str | None = None
    shelved: Shelved | None = None
    out_of_service: bool = False

    def references(self) -> list[Reference]:
        found = [Reference((key,), name) for key, text in self._texts() for name in used_in(text)]
        if self.tag is not None:
            found = [Reference(("tag",), r.tag) if r.path[0] in _SHORT else r for r in found]
        return found

    def faults(self) -> list[tuple[Path, str]]:
        wrong: list[tuple[Path, str]] = []
        given = [key for key in (*_LONG, *_SHORT) if getattr(self, key) is not None]
        if len(given) != 1:
            message = f"needs one of {', '.join((*_LONG, *_SHORT))}"
            wrong.append(((), message + (f": {' and '.join(given)} stand here" if given else "")))
        if self.tag is None and given and given[0] in _SHORT:
            wrong.append(((), f'"tag" is missing: what {given[0]} is about'))
        if self.tag is not None and given and given[0] in _LONG:
            wrong.append((("tag",), f"is of no use with {given[0]}, which names its own"))
        if self.windows:
            wrong.append((("windows",), "an alarm has no windows"))
        if self.deadband < 0:
            wrong.append((("deadband",), "must be 0 or more"))
        if self.stale is not None and self.stale <= 0:
            wrong.append((("stale",), "must be longer than 0s"))
        if self.shelved is not None and _instant(self.shelved.until) is None:
            text = self.shelved.until
            message = f'"{text}" is not a time (write 2026-12-01T08:00)'
            wrong.append((("shelved", "until"), message))
        for key, text in self._texts():
            wrong += [((key,), message) for message in text_faults(text)]
        if self.forecast is not None and _forecast(self.forecast) == self.forecast:
            message = "names no mean of a window: write owner.column_1h (or _15min, _1d)"
            wrong.append((("forecast",), message))
        return wrong

    def _texts(self) -> list[tuple[str, str]]:
        """Return the expressions, each with the key that it comes from."""
        tag = f"`{self.tag}`"
        found = {
            "when": self.when,
            "forecast": None if self.forecast is None else _forecast(self.forecast),
        }
        if self.tag is not None:
            found["high"] = None if self.high is None else f"{tag} > {self.high}"
            found["low"] = None if self.low is None else f"{tag} < {self.low}"
            found["rate"] = None if self.rate is None else f"abs(rate({tag})) > {self.rate}"
            found["stale"] = None if self.stale is None else tag
        found["suppress"] = self.suppress
        return [(key, text) for key, text in found.items() if text is not None]

    def build(self, name: str, plant: Plant) -> list[Metric]:
        names, wrong = Names(plant), list[tuple[Path, str]]()
        made: dict[str, Expression] = {}
        for key, text in self._texts():
            try:
                made[key] = compiled(text, names)
            except ExpressionError as error:
                wrong.append(((key,), error.what if key in _SHORT else str(error)))
        condition = None
        for key, expression in made.items():
            if key != "stale" and not expression.truth:
                wrong.append(((key,), "is no condition: compare it with a limit"))
            elif key != "suppress":
                condition = self._condition(key, expression, wrong)
        wrong += self._too_long(plant) if "forecast" in made else []
        if wrong or condition is None:
            raise Mistakes(wrong)
        aligned = names.align(plant, self._clock(plant))
        output = Schema(
            f"{name}/event", Family.ALARM, alarm_tags(condition.unit), _DAY, plant.provenance(())
        )
        silence = round(SILENCE * aligned.driver.period * 1e9)
        delays = Delays(self.delay.ns, self.off_delay.ns, silence)
        suppressed = made["suppress"].program if "suppress" in made else None
        until = -1
        if self.shelved is not None and (instant := _instant(self.shelved.until)) is not None:
            local = instant if instant.tzinfo else instant.replace(tzinfo=plant.site.zone)
            until = round(local.timestamp()) * 1_000_000_000
        rules = Rules(self.acknowledge and self.priority != "journal", self.latch)
        priority = PRIORITIES.index(self.priority)
        settings = Settings(rules, priority, suppressed, until, self.out_of_service)
        return [Alarm(output, aligned, condition, delays, settings)]

    def _condition(
        self, key: str, expression: Expression, wrong: list[tuple[Path, str]]
    ) -> Condition:
        if key == "stale" and self.stale is not None:
            return Stale(expression.program, self.stale.ns)
        comparison = expression.comparison
        if comparison is not None and not (self.deadband and comparison.sign in {"==", "!="}):
            return Limited(comparison, self.deadband)
        if self.deadband:
            message = "needs a condition that is one comparison: value > limit"
            wrong.append((("deadband",), message))
        return Truth(expression.program)

    def _too_long(self, plant: Plant) -> list[tuple[Path, str]]:
        """Return the metrics of a forecast whose minutes there are none of."""
        names = () if self.forecast is None else used_in(_forecast(self.forecast))
        schemas = [found(plant, name)[0] for name in names]
        return [
            (("forecast",), f'needs the minutes of "{s.owner}": add 1min to its windows')
            for s in schemas
            if s.family not in {Family.SAMPLE, Family.COMPUTED} and s.name != "1min"
        ]

    def _clock(self, plant: Plant) -> list[Schema]:
        """Return the minutes of KPIs whose longer windows are judged: they say that time passes.

        An hour's row alone would end a delay of a minute an hour later.
        """
        clock = []
        for key, text in self._texts():
            for name in used_in(text) if key != "stale" else ():
                schema, column = found(plant, name)
                if schema.family in {Family.SAMPLE, Family.COMPUTED} or schema.name == "1min":
                    continue
                try:
                    minutes, _ = plant.derived(f"{schema.owner}.{column}")
                except KeyError:
                    continue
                clock += [minutes] if minutes.name == "1min" else []
        return clock


def _instant(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _forecast(text: str) -> str:
    """Return the text with ``owner.column_1h`` as the forecast of that hour's mean."""
    try:
        words = tokens(text)
    except ExpressionError:
        return text  # told as it was written
    for word in reversed(words):
        for suffix, length in _WINDOWS.items():
            if word.kind == "name" and word.text.endswith(suffix):
                changed = f"forecast({word.text.removesuffix(suffix)}, {length})"
                text = text[: word.at] + changed + text[word.at + len(word.text) :]
    return text
