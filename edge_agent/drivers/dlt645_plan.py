"""Which data identifiers a stream of tags asks for; pure.

One exchange brings one data identifier. Where the meter has blocks, tags that stand in the same
one are read together: three voltages by 0201FF00, a counter with its tariffs by 0001FF00. A meter
that refuses a block is asked for its members one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.drivers.dlt645_items import Place, block_of, layout


@dataclass(frozen=True)
class Ask:
    """One exchange.

    columns  (column of the stream, where its number stands in the answer)
    singles  what is asked instead where the meter knows no such block
    """

    item: int
    columns: tuple[tuple[int, Place], ...]
    singles: tuple["Ask", ...] = ()

    @property
    def octets(self) -> int:
        """The length of the values that it brings, at least."""
        return max((where.member + 1) * where.layout.octets for _, where in self.columns)


def plan(places: Sequence[Place], version: str, *, blocks: bool) -> tuple[Ask, ...]:
    """Return the exchanges for the columns of one stream, each data identifier once.

    blocks  whether two members of a block or more are read as a block
    """
    by_item: dict[int, list[tuple[int, Place]]] = {}
    for column, place in enumerate(places):
        by_item.setdefault(place.item, []).append((column, place))
    asks = {item: Ask(item, tuple(columns)) for item, columns in by_item.items()}
    if not blocks:
        return tuple(asks.values())
    members: dict[int, list[Ask]] = {}
    for ask in asks.values():
        found = block_of(ask.item, version)
        members.setdefault(ask.item if found is None else found[0], []).append(ask)
    return tuple(_joined(block, found, version) for block, found in members.items())


def _joined(block: int, members: Sequence[Ask], version: str) -> Ask:
    whole = layout(block, version)
    if len(members) == 1 or whole is None:
        return members[0]
    columns = []
    for ask in members:
        found = block_of(ask.item, version)
        for column, place in ask.columns:
            member = place.member if found is None else found[1]
            columns.append((column, Place(block, whole, member, place.part, place.bit)))
    return Ask(block, tuple(columns), tuple(members))
