"""The messages of one write, and what is remembered of them until a write gets through.

A write that ends with the connection is handed over again, the first time as a whole: a broker that
was killed may have lost what it had acknowledged a moment before. When that happens again, what was
acknowledged is left out, so that a slow link gets on with each connection.

A broker may end the connection with a refusal, also without a word: mosquitto 2.0.11 with
``max_queued_messages 0``, any broker of MQTT 3.1.1, or one that finds a packet too large. To get
past it, messages go one by one after some losses, so that it is seen which was under way. A link
that breaks by itself looks alike, so that one is put on trial: it is sent when the connection has
lived for a while with nothing under way. If that ends the connection, it is cut; one that cannot be
cut is refused after ``PATIENCE`` trials.
"""

import logging
from collections import Counter
from hashlib import blake2b

from edge_agent.errors import Disconnected, Refusal
from edge_agent.sinks.mqtt_answers import BLAMING, DOUBTFUL, TEMPORARY, TOO_LARGE
from edge_agent.sinks.mqtt_connection import LARGEST, Connection, Message

log = logging.getLogger(__name__)

OVERHEAD = 16  # bytes of a PUBLISH packet beside topic and payload, at most
LOST, MOST = 2, 4  # suspicion that a lost write adds, and at most; one that gets through takes 1
SUSPICIOUS = 3  # suspicion from which on messages are sent one by one
QUIET = 0.5  # seconds for which a connection lives before a trial
LONG_PATIENCE = 10  # times that a message is not answered: over 5 min with usual time and pauses
PATIENCE = 3  # trials of a message, or answers that leave open what is at fault
KEPT = 100_000  # messages that are remembered
FAILURE = 0x80  # reason codes from here on are refusals


class Ledger:
    """What is known of messages from one connection to the next.

    It outlives writes that get through: live rows do, between two tries of a backlog.

    suspicion  grows with writes that end with the connection
    cut        bytes of a message above which a block is cut, as found out
    """

    def __init__(self) -> None:
        self.accepted: Counter[bytes] = Counter()
        self.refused: dict[bytes, str] = {}
        self.doubts: Counter[bytes] = Counter()
        self.trials: Counter[bytes] = Counter()
        self.suspicion = 0
        self.cut = LARGEST

    @property
    def empty(self) -> bool:
        """Whether nothing is known of any message."""
        return not (self.accepted or self.refused or self.doubts or self.trials)

    def was_accepted(self, key: bytes) -> bool:
        """Return whether a message was acknowledged before; each time counts once."""
        if not self.accepted[key]:
            return False
        self.accepted[key] -= 1
        if not self.accepted[key]:
            del self.accepted[key]
        return True

    def forget(self, key: bytes) -> None:
        """Leave out a message that is answered for."""
        for known in (self.refused, self.doubts, self.trials):
            known.pop(key, None)

    def bound(self) -> None:
        """Forget all when there is so much that it must be of rows that were dropped."""
        if len(self.accepted) + len(self.refused) + len(self.doubts) > KEPT:
            for known in (self.accepted, self.refused, self.doubts, self.trials):
                known.clear()


class Batch:
    """The messages of one write and what becomes of them."""

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._accepted: list[Message] = []  # a digest is made when a connection is lost
        self._refused: list[tuple[Message, str]] = []
        self._kept = ""  # why the broker does not take a message now
        self._on_trial = b""

    async def publish(self, message: Message) -> None:
        """Send a message, or nothing when it is known what becomes of it."""
        ledger = self._ledger
        size = len(message.text) + len(message.topic.encode()) + OVERHEAD
        if size > self._connection.largest:
            most = self._connection.largest
            why = f"too large: {size} bytes; the broker takes at most {most}"
            self._refused.append((message, why))
            return
        if not ledger.empty:
            key = _digest(message)
            if ledger.suspicion >= SUSPICIOUS and ledger.was_accepted(key):
                self._accepted.append(message)
                return
            if key in ledger.refused:
                self._refused.append((message, ledger.refused[key]))
                return
            if ledger.doubts[key] and ledger.suspicion >= SUSPICIOUS:
                await self._connection.rest(QUIET)
                self._on_trial = key
        await self._connection.publish(message, self._answered, retain=message.item is None)
        if ledger.suspicion >= SUSPICIOUS:
            await self.settle()
        elif self._kept:
            raise Disconnected(self._kept)

    async def settle(self) -> None:
        """Return when everything sent is answered for.

        errors  ``Disconnected`` when it is not, or when the broker can take no more for now
        """
        await self._connection.answered()
        if self._kept:
            raise Disconnected(self._kept)

    def refusals(self) -> list[Refusal]:
        """Return the rows refused, those of an item with one reason together; log others."""
        found: dict[tuple[int, str], list[int]] = {}
        for message, why in self._refused:
            if message.item is None:
                log.warning("%s: %s", message.topic, why)
            else:
                found.setdefault((message.item, why), []).extend(message.rows)
        return [Refusal(item, rows, why) for (item, why), rows in sorted(found.items())]

    def complete(self) -> None:
        """Note that all messages are answered for."""
        ledger = self._ledger
        ledger.suspicion = max(0, ledger.suspicion - 1)
        if ledger.suspicion < SUSPICIOUS:
            ledger.accepted.clear()
        for message, _ in self._refused:
            if message.item is not None:  # $meta and $state come again
                ledger.forget(_digest(message))

    async def remember(self) -> None:
        """Keep what is known when the connection is lost, or a message is not answered."""
        ledger, connection = self._ledger, self._connection
        ledger.bound()
        ledger.suspicion = min(MOST, ledger.suspicion + LOST)
        ledger.accepted |= Counter(map(_digest, self._accepted))
        ledger.refused |= {_digest(message): why for message, why in self._refused}
        if len(connection.waiting) != 1:
            return
        suspect = connection.waiting[0]
        if connection.ended:
            self._hung_up(suspect)
        elif ledger.suspicion >= SUSPICIOUS and not connection.gone and await connection.alive():
            self._swallowed(suspect)

    def _hung_up(self, suspect: Message) -> None:
        """Note that the connection ended when a message was under way alone."""
        ledger, parted, key = self._ledger, self._connection.parted, _digest(suspect)
        certain = parted in BLAMING
        if not certain and key != self._on_trial:
            ledger.doubts[key] += 1
        elif len(suspect.rows) > 1 and parted in {None, TOO_LARGE}:
            ledger.cut = max(1, len(suspect.text) // 2)
        elif certain:
            ledger.refused[key] = f"the broker ends the connection for it ({parted})"
        else:
            ledger.trials[key] += 1
            if ledger.trials[key] >= PATIENCE:
                why = f"the broker closed the connection when it got this, {PATIENCE} times"
                ledger.refused[key] = f"{why}, and did not say why"

    def _swallowed(self, suspect: Message) -> None:
        """Note that a message was not answered, but a ping behind it was.

        A broker may do so for minutes because of its own troubles, so this takes long.
        """
        ledger, key = self._ledger, _digest(suspect)
        ledger.trials[key] += 1
        if len(suspect.rows) > 1 and ledger.trials[key] >= PATIENCE:
            ledger.cut = max(1, len(suspect.text) // 2)
        elif ledger.trials[key] >= LONG_PATIENCE:
            why = f"the broker answered nothing when it got this, {LONG_PATIENCE} times"
            ledger.refused[key] = f"{why}, but a ping behind it"

    def _answered(self, message: Message, code: int, name: str) -> None:
        if code < FAILURE:
            if not self._ledger.empty:
                self._ledger.forget(_digest(message))
            if message.item is not None:  # $meta and $state are told on each connection
                self._accepted.append(message)
            return
        key = _digest(message)
        why = f"the broker answered: {name} ({code})"
        if code in DOUBTFUL:
            self._ledger.trials[key] += 1
        if code in TEMPORARY or (code in DOUBTFUL and self._ledger.trials[key] < PATIENCE):
            self._kept = why
        else:
            self._refused.append((message, why))


def _digest(message: Message) -> bytes:
    return blake2b(message.topic.encode() + b"\0" + message.text, digest_size=16).digest()
