"""The search for refused lines against models of what servers say; pure, no server."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.sinks.influx_refusals import Answer, Line, Said, answer_of, isolate

Judge = Callable[[Line], bool]
Server = Callable[[list[Line], Judge], str | None]  # the body of a refusal
SHARD = 10  # rows of one stream in a shard, so that many searches meet a border


def said(**body: object) -> str:
    return json.dumps(body)


def conflict(lines: list[Line], bad: Judge, shard: int = SHARD) -> str | None:
    """InfluxDB 1 and 2: the count is that of the first shard with a conflict."""
    shards = [line.row // shard for line in filter(bad, lines)]
    if not shards:
        return None
    why = 'partial write: field type conflict: input field "v" on measurement "sample" is type'
    dropped = shards.count(shards[0])
    return said(error=f"{why} string, already exists as type float dropped={dropped}")


def conflict_of_days(lines: list[Line], bad: Judge) -> str | None:
    """The same with shards of a usual size: two in a request."""
    return conflict(lines, bad, 2345)


def quoting(lines: list[Line], bad: Judge) -> str | None:
    """InfluxDB 1 and 2: every line that does not parse is quoted."""
    quoted = [f"unable to parse '{line.text}': bad timestamp" for line in filter(bad, lines)]
    if not quoted:
        return None
    everything = len(quoted) == len(lines)
    text = "\n".join(quoted)
    return said(error=text if everything else f"partial write: {text} dropped=0")


def numbering(lines: list[Line], bad: Judge) -> str | None:
    """InfluxDB 3 as it is documented: a hundred lines at most, counted from 1."""
    found = [
        {"original_line": line.text[:20], "line_number": i, "error_message": "invalid column type"}
        for i, line in enumerate(lines, 1)
        if bad(line)
    ]
    return (
        said(error="partial write of line protocol occurred", data=found[:100]) if found else None
    )


def naming_one(lines: list[Line], bad: Judge) -> str | None:
    """InfluxDB 3 that takes all or nothing names one line, outside of a list."""
    found = [i for i, line in enumerate(lines, 1) if bad(line)]
    entry = {"line_number": found[0], "error_message": "No fields were provided"} if found else {}
    return said(error="parsing failed for write_lp endpoint", data=entry) if found else None


def silent(lines: list[Line], bad: Judge) -> str | None:
    """Says no only."""
    return said(code="invalid", message="bad request") if any(map(bad, lines)) else None


SERVERS: list[Server] = [conflict, quoting, numbering, naming_one, silent]


def search(
    lines: list[Line], bad: Judge, server: Server, status: int = 400
) -> tuple[list[Line], set[Line], int]:
    """Return what is refused, what was in an accepted request, and the number of requests."""
    stored: set[Line] = set()
    requests = 0

    def ask(part: list[Line]) -> Answer | None:
        nonlocal requests
        requests += 1
        body = server(part, bad)
        if body is None:
            stored.update(part)
            return None
        return answer_of(Said(status, "Bad Request", body), part)

    answer = ask(lines)
    if answer is None:
        return [], stored, requests
    steps = isolate(lines, answer)
    answer = None
    while True:
        try:
            part = steps.send(answer)
        except StopIteration as end:
            return [line for line, _ in end.value], stored, requests
        answer = ask(part)


def lines_of(streams: int, rows: int, *, gaps: bool = False) -> list[Line]:
    """Rows of several streams, taken in turn; with gaps every third has another field."""
    return [
        Line(row * streams + s, row, f"em-{s}/raw", f"sample,device=em-{s} {field}=1.5,q=0i {row}")
        for row in range(rows)
        for s in range(streams)
        for field in ["w" if gaps and row % 3 == 0 else "v"]
    ]


@pytest.mark.parametrize("server", SERVERS)
@settings(max_examples=40)
@given(st.data())
def test_what_is_refused_is_found_and_all_else_is_stored(
    server: Server, data: st.DataObject
) -> None:
    lines = lines_of(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40)))
    bad = data.draw(st.sets(st.sampled_from(lines)))
    refused, stored, requests = search(lines, bad.__contains__, server)
    assert sorted(refused) == sorted(bad)
    assert stored == set(lines) - bad
    assert requests <= 2 + 2 * len(bad) * (math.log2(len(lines)) + 3)


@pytest.mark.parametrize(
    ("server", "requests"),
    [(conflict, 1 + 12), (quoting, 2), (numbering, 2), (naming_one, 2), (silent, 1 + 13)],
)
def test_one_bad_row_of_five_thousand_costs_a_dozen_requests(server: Server, requests: int) -> None:
    lines = lines_of(1, 5000)
    _, stored, asked = search(lines, lines[3210].__eq__, server)
    assert len(stored) == 4999
    assert asked <= requests + 8  # halves behind it, each taken at once


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("streams", [1, 50])
@pytest.mark.parametrize("server", [conflict_of_days, quoting, numbering])
def test_a_whole_stream_in_conflict_costs_few_requests(
    server: Server, streams: int, gaps: bool
) -> None:
    lines = lines_of(streams, 5000 // streams, gaps=gaps)
    bad = {line for line in lines if line.stream == "em-0/raw" and " v=" in line.text}
    refused, stored, asked = search(lines, bad.__contains__, server)
    assert sorted(refused) == sorted(bad)
    assert stored == set(lines) - bad
    assert asked <= 66  # InfluxDB 3 names a hundred at a time; the others need 1 to 48


def test_many_streams_in_conflict_cost_two_requests_each() -> None:
    lines = lines_of(50, 100)
    bad = {line for line in lines if line.stream.endswith(("1/raw", "4/raw", "7/raw"))}
    refused, stored, asked = search(lines, bad.__contains__, conflict_of_days)
    assert sorted(refused) == sorted(bad)
    assert stored == set(lines) - bad
    assert asked <= 2 * 50


def test_a_count_lower_than_what_is_refused_ends_no_search() -> None:
    """InfluxDB 1.6.7 answers so to conflicts in two shards."""
    lines = lines_of(1, 40)
    refused, stored, _ = search(lines, lambda line: line.row in {3, 25, 26}, conflict)
    assert [line.row for line in refused] == [3, 25, 26]
    assert len(stored) == 37


def test_rows_of_one_time_are_sent_in_their_order() -> None:
    rows = [("v=1", 5), ("w=1", 5), ("v=2", 6), ("w=2", 7), ("v=bad", 8)]
    lines = [Line(0, i, "em/raw", f"sample {f} {t}") for i, (f, t) in enumerate(rows)]
    sent: list[int] = []

    def noting(part: list[Line], bad: Judge) -> str | None:
        body = silent(part, bad)
        sent.extend(line.row for line in part if body is None)
        return body

    assert search(lines, lines[4].__eq__, noting)[0] == [lines[4]]
    assert sent == [0, 1, 2, 3]


def test_a_request_too_large_is_halved_by_rows_and_a_single_line_refused() -> None:
    lines = lines_of(2, 20)

    def narrow(part: list[Line], bad: Judge) -> str | None:
        return "<html>" if len(part) > 8 or any(map(bad, part)) else None

    refused, stored, asked = search(lines, lines[7].__eq__, narrow, status=413)
    assert refused == [lines[7]]
    assert stored == set(lines) - {lines[7]}
    assert asked < 20


@pytest.mark.parametrize(
    ("body", "dropped", "named"),
    [
        ('{"error":"partial write: points beyond retention policy dropped=3"}', 3, {}),
        ('{"code":"unprocessable entity","message":"failure: partial write: no dropped=2"}', 2, {}),
        ('{"error":"dropped=3"}', 0, {}),
        ('{"code":"invalid","line":2,"message":"partial write error (2 written): no"}', 0, {}),
        ('{"error":"x","data":[{"line_number":0},{"line_number":4},{"line_number":"2"},7]}', 0, {}),
        ('{"error":"x","data":[{"line_number":2,"error_message":"why"}]}', 0, {1: "why"}),
        ("[1]", 0, {}),
        ("", 0, {}),
    ],
)  # fmt: skip
def test_the_words_of_servers(body: str, dropped: int, named: dict[int, str]) -> None:
    answer = answer_of(Said(400, "Bad Request", body), lines_of(1, 3))
    assert (answer.dropped, answer.named) == (dropped, named)
    assert answer.reason
