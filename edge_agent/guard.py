"""What stands between the supervisor and a plug-in: whatever a driver or sink raises ends here.

A plug-in may raise what its protocol allows and nothing else. All the rest is a bug in it, which
becomes one error: told with its traceback, shown as FAILED, tried again after a long pause, and of
no concern to the others. No other place of the code catches everything.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from edge_agent.drivers.base import Driver, Learns
from edge_agent.errors import Disconnected, EdgeError
from edge_agent.health import LinkHealth, SinkHealth, State

log = logging.getLogger(__name__)
T = TypeVar("T")

FAILED_PAUSE = 60.0  # seconds after a bug of a plug-in
ASKED = 300.0  # seconds for which a peer is left alone because it asks for it, at most


class PlugInFailed(EdgeError):
    """A driver or sink raised what its contract does not allow: a bug in it."""


async def plug_in(call: Awaitable[T], *allowed: type[EdgeError], closing: bool = False) -> T:
    """Await a call into a plug-in; whatever it raises beyond its contract becomes one error.

    allowed  what this call may raise beside ``Disconnected``

    Cancellation is seen to here too. Libraries on Python 3.11's ``wait_for`` lose one that comes
    together with the answer (python/cpython#86296), and some raise a kind of their own, which a
    ``TaskGroup`` takes for an error: without this, a stop would now and then wait for ever.
    """
    try:
        result = await call
    except asyncio.CancelledError as e:
        if type(e) is asyncio.CancelledError:
            raise
        raise asyncio.CancelledError from e
    except Exception as e:
        if isinstance(e, (Disconnected, *allowed)):
            raise
        raise PlugInFailed(f"{type(e).__name__}: {e}") from e
    task = asyncio.current_task()
    if not closing and task is not None and task.cancelling():
        raise asyncio.CancelledError
    return result


def learnt(name: str, driver: Driver) -> dict[str, object]:
    """Return what a driver has learnt of its devices; nothing if it learns nothing."""
    if not isinstance(driver, Learns):
        return {}
    return _unless_failed(name, driver.save) or {}


def teach(name: str, driver: Driver, state: object) -> None:
    """Hand a driver what it had learnt before the restart."""
    if isinstance(driver, Learns) and isinstance(state, dict):
        _unless_failed(name, partial(driver.load, state))


def _unless_failed(name: str, call: Callable[[], T]) -> T | None:
    """Call into a plug-in whose failure costs only what it has learnt."""
    try:
        return call()
    except Exception:
        log.exception("%s: what was learnt of its devices is lost", name)
        return None


@dataclass
class Backoff:
    """Full jitter over a growing bound, in seconds.

    source  M. Brooker, "Exponential Backoff And Jitter", 2015
    """

    base: float = 0.5
    cap: float = 30.0
    _tries: int = 0

    def next(self, asked: float | None = None) -> float:
        """Return how long to wait before the next try.

        asked  seconds for which the peer has asked to be left alone: no less, up to ``ASKED``
        """
        bound = min(self.cap, self.base * 2.0 ** min(self._tries, 64))  # it may go on for days
        self._tries += 1
        pause = random.uniform(bound / 4, bound)
        # a bit more than asked: not all who were asked come back in the same moment
        return pause if asked is None else max(pause, min(asked, ASKED) + pause / 10)

    def reset(self) -> None:
        """Begin anew after a success."""
        self._tries = 0


def note_down(
    health: LinkHealth | SinkHealth, reason: BaseException, *, said: bool = False
) -> None:
    """Keep why a link or sink is down; log it, unless that was said: a bug with its trace."""
    failed = isinstance(reason, PlugInFailed)
    state = State.FAILED if failed else State.DOWN
    if health.state not in {state, State.FAILED} and (failed or not said):
        level, cause = (logging.ERROR, reason.__cause__) if failed else (logging.WARNING, None)
        log.log(level, "%s is down: %s", health.name, reason, exc_info=cause)
    health.state, health.error = state, str(reason)
