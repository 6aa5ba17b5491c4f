"""Rates over time whose integral is a formula, so a counter is exact at any instant.

A ``Curve`` is a mean with sinusoids and a seeded step per minute around it. The steps of an hour
add up to nothing; so an integral over months needs only its two border hours, and no state is kept
between calls.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Protocol

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

Reading = Callable[[int], float]


class Signal(Protocol):
    """A rate that can be asked at any instant and integrated over any span."""

    def at(self, t: int, /) -> float:
        """Return the rate at an instant (ns)."""

    def integral(self, start: int, stop: int, /) -> float:
        """Return the rate's integral over a span, in its unit times hours."""


@dataclass(frozen=True)
class Wave:
    """One sinusoid: share of the mean, period in whole seconds, phase as a share of the period."""

    share: float
    period: int
    phase: float = 0.0

    def angle(self, t: int) -> float:
        """Return the angle at an instant; exact however late it is."""
        period = self.period * SECOND
        return math.tau * ((t % period) / period + self.phase)


@lru_cache(maxsize=4096)
def _steps(key: str, hour: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return 60 steps within ±1 that add up to nothing, and their sum before each minute."""
    random = Random(f"{key}/{hour}")
    drawn = [random.uniform(-0.5, 0.5) for _ in range(60)]
    mean = math.fsum(drawn) / 60
    steps = tuple(value - mean for value in drawn)
    running = [0.0]
    for value in steps:
        running.append(running[-1] + value)
    return steps, tuple(running[:60])


@dataclass(frozen=True)
class Curve:
    """``mean · (1 + Σ waves + step of the minute)``.

    key   what the steps are drawn from: seed and name
    step  largest step, as a share of the mean
    """

    key: str
    mean: float
    waves: tuple[Wave, ...] = ()
    step: float = 0.0

    def at(self, t: int, /) -> float:
        waves = math.fsum(wave.share * math.sin(wave.angle(t)) for wave in self.waves)
        step = _steps(self.key, t // HOUR)[0][t % HOUR // MINUTE] if self.step else 0.0
        return self.mean * (1.0 + waves + self.step * step)

    def integral(self, start: int, stop: int, /) -> float:
        seconds = math.fsum(
            wave.share * wave.period / math.tau
            * (math.cos(wave.angle(start)) - math.cos(wave.angle(stop)))
            for wave in self.waves
        )  # fmt: skip
        if self.step:
            seconds += self.step * (self._stepped(stop) - self._stepped(start))
        return self.mean * ((stop - start) / SECOND + seconds) / 3600.0

    def _stepped(self, t: int) -> float:
        """Return the steps' integral since the beginning of the hour, in seconds."""
        steps, running = _steps(self.key, t // HOUR)
        minute, rest = divmod(t % HOUR, MINUTE)
        return running[minute] * 60.0 + steps[minute] * rest / SECOND


@dataclass(frozen=True)
class Total:
    """A weighted sum of signals."""

    parts: Sequence[tuple[float, Signal]]

    def at(self, t: int, /) -> float:
        return math.fsum(weight * part.at(t) for weight, part in self.parts)

    def integral(self, start: int, stop: int, /) -> float:
        return math.fsum(weight * part.integral(start, stop) for weight, part in self.parts)


def lively(seed: int, name: str, mean: float, swing: float, step: float) -> Curve:
    """Return a curve with slow, middle and quick waves whose phases the seed draws.

    swing, step  shares of the mean: the waves' amplitudes together and the largest step of a minute
    """
    random = Random(f"{seed}/{name}/waves")
    periods = ((0.5, 7 * 3600 + 1200), (0.3, 23 * 60), (0.2, 47))
    waves = tuple(Wave(swing * part, period, random.random()) for part, period in periods)
    return Curve(f"{seed}/{name}", mean, waves, step)
