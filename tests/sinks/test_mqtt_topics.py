"""Topics from a template: what may be written, and that no two streams ever share one."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_agent.sinks.mqtt import MqttConfig
from edge_agent.sinks.mqtt_topics import TEMPLATE, Topics, client_id, template_problem
from tests.sinks.blocks import SITE, schema

RAW, HOUR = schema("em-kiln/raw"), schema("clinker/1h")


def test_the_template_of_the_contract_gives_the_topics_of_the_contract() -> None:
    topics = Topics(TEMPLATE, SITE)
    assert topics.stream(RAW) == "edge/demo-cement/em-kiln/raw"
    assert topics.stream(HOUR) == "edge/demo-cement/clinker/1h"
    assert topics.meta("em-kiln") == "edge/demo-cement/em-kiln/$meta"
    assert topics.state == "edge/demo-cement/$state/main"
    assert client_id(MqttConfig(url="mqtt://h").client_id, SITE) == "demo-cement-main"


@pytest.mark.parametrize(
    ("template", "stream", "meta", "state"),
    [
        ("works/{gateway}/{name}/{owner}", "works/main/raw/em-kiln",
         "works/main/$meta/em-kiln", "works/main/main/$state"),
        ("电力/{owner}.{name}/rows", "电力/em-kiln.raw/rows",
         "电力/em-kiln.$meta/rows", "电力/$state.main/rows"),
        ("v1/{owner}/telemetry", "v1/em-kiln/telemetry",
         "v1/em-kiln/telemetry/$meta", "v1/$state/telemetry/main"),
        ("kiln", "kiln", "kiln/em-kiln/$meta", "kiln/$state/main"),
    ],
)  # fmt: skip
def test_a_template_moves_all_that_is_published(
    template: str, stream: str, meta: str, state: str
) -> None:
    topics = Topics(template, SITE)
    assert (topics.stream(RAW), topics.meta("em-kiln"), topics.state) == (stream, meta, state)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("", "empty level"),
        ("edge/{site}/{device}/{name}", "there is no {device} (write {site}, {gateway}, {owner}"),
        ("edge/{owner/{name}", "brace without its partner"),
        ("edge/{owner}/{name}/{name}", "{name} stands twice"),
        ("edge/+/{owner}/{name}", "no '+'"),
        ("edge/{owner}/{name}/#", "no '#'"),
        ("edge/\x00/{owner}/{name}", "no '\\x00'"),
        ("$edge/{owner}/{name}", "the broker's own"),
        ("{owner}/{name}", "write 'edge/{owner}/{name}'"),
        ("/edge/{owner}/{name}", "empty level"),
        ("edge//{owner}/{name}", "empty level"),
        ("edge/{owner}/{name}/", "empty level"),
        ("x" * 1025, "more than 1024 bytes"),
        ("edge/{site}/{owner}", "without {name} several streams stand on one topic"),
        ("edge/{site}/{name}", "without {owner} several streams stand on one topic"),
        ("edge/{site}/{owner}{name}", "nothing parts {owner} and {name}"),
        ("edge/{site}/{name}-{owner}", "nothing parts {owner} and {name}"),
    ],
)
def test_a_template_that_cannot_be_is_told_with_what_would_be_right(
    template: str, what: str
) -> None:
    ((path, message),) = MqttConfig(url="mqtt://h", topic=template).faults()
    assert path == ("topic",)
    assert what in message
    assert "(write" in message


def test_what_the_streams_leave_no_choice_of_may_be_left_out() -> None:
    assert template_problem("plant/{owner}/telemetry", ["em-*/raw", "cems-?/raw"]) is None
    assert template_problem("plant/kiln/{name}", ["em-kiln/*"]) is None
    assert template_problem("plant/kiln", ["em-kiln/raw"]) is None
    assert template_problem("plant/{owner}", ["em-*/raw", "em-*/raw.slow"]) is not None
    assert template_problem("plant/{owner}", ["em-*/raw*"]) is not None


OWNERS = st.from_regex(re.compile(r"[a-z0-9-]{1,6}"), fullmatch=True)
NAMES = st.sampled_from(["raw", "raw.slow", "raw.5s", "1h", "15min", "h"])
STREAMS = st.tuples(OWNERS, NAMES)
BETWEEN = st.text("a-1./_", max_size=3)


@given(
    st.tuples(BETWEEN, BETWEEN, BETWEEN), st.booleans(), st.lists(STREAMS, min_size=2, max_size=2)
)
def test_no_template_that_is_taken_gives_two_streams_one_topic(
    texts: tuple[str, str, str], turned: bool, streams: list[tuple[str, str]]
) -> None:
    first, last = ("{name}", "{owner}") if turned else ("{owner}", "{name}")
    template = f"edge/x{texts[0]}{first}{texts[1]}{last}{texts[2]}"
    assume(template_problem(template, []) is None and streams[0] != streams[1])
    topics = Topics(template, SITE)
    used = {topics.stream(schema("/".join(stream))) for stream in streams}
    assert len(used) == 2
    assert not {topics.meta(streams[0][0]), topics.state} & used


@pytest.mark.parametrize("written", ["", "{owner}", "gate\n", "a}"])
def test_a_client_id_that_cannot_be_is_told(written: str) -> None:
    ((path, _),) = MqttConfig(url="mqtt://h", client_id=written).faults()
    assert path == ("client_id",)
