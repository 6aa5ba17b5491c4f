# ruff: noqa: E501  a table of mistakes and messages is read line by line
"""Alarms: every transition of the states, delays and deadband, mistakes, the contract's example."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.config import load
from edge_agent.errors import ConfigError
from edge_agent.metrics.alarm import AlarmConfig, Shelved
from edge_agent.metrics.alarm_rows import Alarm
from edge_agent.metrics.alarm_states import AlarmEvent, AlarmState, Rules, Situation, after
from edge_agent.metrics.base import Mistakes
from edge_agent.metrics.emissions import EmissionsConfig
from edge_agent.model import Quality, SampleBlock, Schema
from edge_agent.outbox_schema import as_json
from edge_agent.units import Duration
from tests.metrics.plants import METER, PACKER, SECOND, STACK, START, Works, restored, run
from tests.test_pipeline import derived, opened, schemas

N, B, C, D, E, F, G, H, OUT = AlarmState
MINUTE = 60 * SECOND

# the states ---------------------------------------------------------------------------------------

BOTH, PLAIN = Rules(acknowledge=True, latch=True), Rules()
ACK, LATCH = Rules(acknowledge=True), Rules(latch=True)
ACTIVE = {B: True, C: True}


def standing(state: AlarmState, *, active: bool | None = None) -> Situation:
    told = state if state < G else N
    holds = ACTIVE.get(state, False) if active is None else active
    return Situation(holds, told, state is G, state is H, state is OUT)


TRANSITIONS = [
    # from, event, rules -> to
    (N, "occur", ACK, B), (N, "clear", ACK, N), (N, "acknowledge", ACK, N), (N, "reset", ACK, N),
    (B, "occur", ACK, B), (B, "clear", ACK, D), (B, "clear", PLAIN, N), (B, "clear", LATCH, E),
    (B, "clear", BOTH, E), (B, "acknowledge", ACK, C), (B, "reset", ACK, B),
    (C, "occur", ACK, C), (C, "clear", ACK, N), (C, "clear", BOTH, F), (C, "acknowledge", ACK, C),
    (C, "reset", BOTH, C),
    (D, "occur", ACK, B), (D, "clear", ACK, D), (D, "acknowledge", ACK, N), (D, "reset", ACK, D),
    (E, "occur", BOTH, B), (E, "clear", BOTH, E), (E, "acknowledge", BOTH, F), (E, "reset", BOTH, D),
    (E, "reset", LATCH, N),
    (F, "occur", BOTH, B), (F, "clear", BOTH, F), (F, "acknowledge", BOTH, F), (F, "reset", BOTH, N),
    (G, "occur", ACK, G), (G, "clear", ACK, G), (G, "acknowledge", ACK, G), (G, "reset", ACK, G),
    (G, "shelve", ACK, G), (G, "unshelve", ACK, N), (G, "suppress", ACK, H), (G, "remove", ACK, OUT),
    (H, "occur", ACK, H), (H, "clear", ACK, H), (H, "acknowledge", ACK, H), (H, "reset", ACK, H),
    (H, "suppress", ACK, H), (H, "unsuppress", ACK, N), (H, "shelve", ACK, H), (H, "remove", ACK, OUT),
    (OUT, "occur", ACK, OUT), (OUT, "clear", ACK, OUT), (OUT, "acknowledge", ACK, OUT),
    (OUT, "reset", ACK, OUT), (OUT, "remove", ACK, OUT), (OUT, "restore", ACK, N),
    (OUT, "shelve", ACK, OUT), (OUT, "suppress", ACK, OUT),
    *((state, event, ACK, to) for state in (N, B, C, D, E, F)
      for event, to in (("shelve", G), ("suppress", H), ("remove", OUT))),
    *((state, event, ACK, state) for state in (N, B, C, D, E, F, H, OUT) for event in ("unshelve",)),
    *((state, event, ACK, state) for state in (N, B, C, D, E, F, G, OUT) for event in ("unsuppress",)),
    *((state, event, ACK, state) for state in (N, B, C, D, E, F, G, H) for event in ("restore",)),
]  # fmt: skip


@pytest.mark.parametrize(("state", "event", "rules", "to"), TRANSITIONS)
def test_a_transition(state: AlarmState, event: str, rules: Rules, to: AlarmState) -> None:
    assert after(standing(state), AlarmEvent(event), rules).state is to


def test_every_state_and_event_is_in_the_table() -> None:
    assert {(s, e) for s, e, _, _ in TRANSITIONS} == {
        (s, e.value) for s in AlarmState for e in AlarmEvent
    }


@pytest.mark.parametrize(("state", "event"), [(G, "unshelve"), (H, "unsuppress"), (OUT, "restore")])
def test_what_still_holds_after_a_silence_is_announced_anew(state: AlarmState, event: str) -> None:
    assert after(standing(state, active=True), AlarmEvent(event), ACK).state is B


def test_an_alarm_that_is_shelved_and_suppressed_is_quiet_until_both_are_over() -> None:
    now = Situation()
    shown = []
    for event in ("occur", "shelve", "suppress", "clear", "unshelve", "occur", "unsuppress"):
        now = after(now, AlarmEvent(event), ACK)
        shown.append(now.state)
    assert shown == [B, G, H, H, H, H, B]


# rows ---------------------------------------------------------------------------------------------


def alarm(config: AlarmConfig) -> Alarm:
    assert config.faults() == []
    (made,) = config.build("kpi", Works())
    assert isinstance(made, Alarm)
    return made


def block(
    schema: Schema,
    column: str,
    values: Sequence[float],
    quality: Sequence[int] = (),
    start: float = 0.0,
) -> SampleBlock:
    n = len(values)
    value = np.zeros((len(schema.tags), n))
    marks = np.zeros(value.shape, np.uint8)
    i = schema.index[column]
    value[i], marks[i] = values, quality or [0] * n
    value[marks >= 128] = np.nan
    time = START + round(start * SECOND) + np.arange(n) * round(schema.period * SECOND)
    return SampleBlock(schema, time, value, marks)


def events(
    config: AlarmConfig, values: Sequence[float], quality: Sequence[int] = ()
) -> list[tuple[int, int, float]]:
    """(seconds since the start, state, value) of the rows of an alarm on ``em-a.power``, each 5 s."""
    found = alarm(config).update(block(METER, "power", values, quality))
    assert found is not None
    assert found.lawful()
    seconds = (found.time - START) // SECOND
    return list(
        zip(
            seconds.tolist(),
            found["state"].astype(int).tolist(),
            found["value"].tolist(),
            strict=True,
        )
    )


def test_a_limit_with_a_deadband() -> None:
    config = AlarmConfig(when="em-a.power > 90", deadband=5.0)
    assert events(config, [80, 91, 89, 86, 85, 89, 91]) == [
        (0, 0, 80),
        (5, 1, 91),
        (20, 0, 85),
        (30, 1, 91),
    ]


def test_short_forms() -> None:
    assert events(AlarmConfig(tag="em-a.power", high=90), [80, 91, 90]) == [
        (0, 0, 80),
        (5, 1, 91),
        (10, 0, 90),
    ]
    assert events(AlarmConfig(tag="em-a.power", high="0.09 MW"), [80, 91]) == [
        (0, 0, 80),
        (5, 1, 91),
    ]
    assert events(AlarmConfig(tag="em-a.power", low=10), [80, 9]) == [(0, 0, 80), (5, 1, 9)]
    rising = AlarmConfig(tag="em-a.power", rate="60 kW/min")
    assert [e[:2] for e in events(rising, [80, 84, 90, 91, 80])] == [
        (0, 0),
        (10, 1),
        (15, 0),
        (20, 1),
    ]


def test_a_delay_begins_anew_when_the_condition_is_interrupted() -> None:
    config = AlarmConfig(when="em-a.power > 90", delay=Duration(10), off_delay=Duration(5))
    assert events(config, [91, 91, 80, 91, 91, 91, 80, 91, 80, 80]) == [
        (0, 0, 91),
        (25, 1, 91),
        (45, 0, 80),
    ]


@pytest.mark.parametrize("mark", [Quality.BAD_NO_ANSWER, Quality.UNCERTAIN_FLAGGED])
def test_what_is_bad_or_flagged_neither_raises_nor_clears(mark: Quality) -> None:
    config = AlarmConfig(when="em-a.power > 90")
    quality = [0, mark, 0, mark, mark, 0]
    assert [e[:2] for e in events(config, [80, 99, 91, 10, 10, 10], quality)] == [
        (0, 0),
        (10, 1),
        (25, 0),
    ]


def test_three_periods_without_a_value_begin_a_delay_anew() -> None:
    config = AlarmConfig(when="em-a.power > 90", delay=Duration(15))
    quality = [0, 0, *[int(Quality.BAD_NO_ANSWER)] * 3, 0, 0, 0, 0]
    assert [e[0] for e in events(config, [91] * 9, quality)] == [0, 40]
    assert [e[0] for e in events(config, [91] * 8, [0, 0, 129, 129, 0, 0, 0, 0])] == [0, 20]


def test_stale_counts_from_the_last_usable_value() -> None:
    config = AlarmConfig(tag="em-a.power", stale=Duration(15))
    quality = [0, 129, 129, 70, 129, 0]
    found = events(config, [1] * 6, quality)
    assert found == [(0, 0, 0.0), (15, 1, 15.0), (25, 0, 0.0)]


def test_a_forecast_is_raised_before_the_mean_is_exceeded() -> None:
    config = AlarmConfig(forecast="stack.so2_1h > 50")
    stack = EmissionsConfig(so2="cems.so2", o2="cems.o2", o2_reference=10.0, windows=("1min", "1h"))
    works = Works(metrics={"stack": stack, "kpi": config})
    rows = block(STACK, "so2", [40.0] * 360 + [70.0] * 360 + [70.0] * 60)
    value = rows.value.copy()
    value[STACK.index["o2"]] = 11.0
    rows = SampleBlock(STACK, rows.time, value, rows.quality.copy())
    found = run(
        [*stack.build("stack", works), *config.build("kpi", works)],
        [rows.rows(i, i + 1) for i in range(len(rows))],
    )
    hour = found["stack/1h"]
    assert hour["so2"].tolist() == [55.0]
    alarms = found["kpi/event"]
    assert alarms["state"].tolist()[:2] == [0.0, 1.0]
    # 30 min at 40, then 70: after the first minute of 70 the hour is forecast at 55
    assert (alarms.time[1] - START) / MINUTE == 31.0
    assert alarms["value"][1] == pytest.approx(55.0)


def test_a_forecast_without_the_minutes_it_is_made_of_is_refused() -> None:
    config = AlarmConfig(forecast="stack.so2_1h > 50")
    stack = EmissionsConfig(so2="cems.so2", windows=("1h",))
    with pytest.raises(Mistakes, match='needs the minutes of "stack": add 1min to its windows'):
        config.build("kpi", Works(metrics={"stack": stack, "kpi": config}))


def test_any_true_or_false_expression_is_a_condition() -> None:
    config = AlarmConfig(when="em-a.power > 90 or em-a.power < 10", priority="critical")
    found = alarm(config).update(block(METER, "power", [80, 91, 5, 50]))
    assert found is not None
    assert found["state"].tolist() == [0, 1, 0]
    assert found["value"].tolist() == [0, 1, 0]
    assert (found.quality[found.schema.index["limit"]] == Quality.BAD_NOT_AVAILABLE).all()
    assert found["priority"].tolist() == [4.0] * 3


def test_an_alarm_is_suppressed_by_design_and_announced_afterwards() -> None:
    made = alarm(AlarmConfig(when="em-a.power > 90", suppress="packer.state == 5"))
    made.update(block(METER, "power", [80, 91, 91, 91, 80]))
    found = made.update(block(PACKER, "state", [1, 5, 5, 1, 1, 1]))
    assert found is not None
    assert found["state"].tolist() == [0, 7, 1, 0]
    assert found["active"].tolist() == [0, 1, 1, 0]


def test_an_alarm_is_shelved_until_a_time_of_the_site() -> None:
    shelved = AlarmConfig(
        when="em-a.power > 90", shelved=Shelved(until="2026-01-01T08:00:10")
    )  # 00:00:10 UTC
    assert [e[:2] for e in events(shelved, [91, 91, 91, 91])] == [(0, 6), (10, 1)]
    out = AlarmConfig(when="em-a.power > 90", out_of_service=True)
    assert [e[:2] for e in events(out, [91, 91, 80, 91])] == [(0, 8)]


def test_chattering_is_counted_and_a_state_says_how_long_the_one_before_lasted() -> None:
    found = alarm(AlarmConfig(when="em-a.power > 90")).update(
        block(METER, "power", [80, 91] * 20 + [80])
    )
    assert found is not None
    assert found["raised_1h"][-1] == 20
    assert set(found["duration_s"][1:].tolist()) == {5.0}
    assert found["coverage"].tolist() == [1.0] * len(found)


def test_an_alarm_tells_its_present_state_without_a_row() -> None:
    made = alarm(AlarmConfig(when="em-a.power > 90"))
    assert made.running(0, {}) is None
    made.update(block(METER, "power", [80, 91, 95]))
    again = alarm(AlarmConfig(when="em-a.power > 90"))
    restored(again, made)
    row = again.running(0, {})
    assert row is not None
    assert row["state"].tolist() == [1.0]
    assert row["value"].tolist() == [95.0]
    assert row["duration_s"].tolist() == [5.0]


@pytest.mark.parametrize(
    ("first", "then", "state"),
    [
        ({}, {}, B),  # something else of the plant has changed
        ({}, {"high": 500.0}, N),
        ({}, {"out_of_service": True}, OUT),
        ({}, {"shelved": Shelved(until="2026-01-01T09:00")}, G),
        ({"out_of_service": True}, {}, B),  # announced anew
        ({"suppress": "em-a.power > 0"}, {}, B),
    ],
)
def test_another_configuration_does_not_announce_again(
    first: dict[str, object], then: dict[str, object], state: AlarmState
) -> None:
    low, high = [100.0] * 60, [300.0] * 300
    rows = block(METER, "power", low + high)
    config = AlarmConfig(tag="em-a.power", high=200.0, delay=Duration(60))
    old, new = alarm(replace(config, **first)), alarm(replace(config, **({"high": 200.0} | then)))
    told = old.update(rows.rows(0, 300))
    assert told is not None
    new.resume(json.loads(as_json(restored(old, old).save())))
    assert new.update(rows.rows(100, 200)) is None  # rows of before are fed again
    again = new.update(rows.rows(200, 320))  # and some that are new
    assert new.situation.state is state
    if first == then:
        assert again is None
        assert new.running(0, {}) is not None
    else:
        assert again is not None
        assert again.time.tolist() == [int(rows.time[300])]
        assert again["state"].tolist() == [state]


def test_an_alarm_goes_on_from_its_own_stored_rows() -> None:
    config = AlarmConfig(when="em-a.power > 90", acknowledge=True)
    stored = alarm(config).update(block(METER, "power", [80, 91, 91]))
    assert stored is not None
    again = alarm(config)
    again.recall(stored)
    assert again.situation == Situation(active=True, announced=B)
    found = again.update(block(METER, "power", [91, 80, 80], start=15))
    assert found is not None
    assert ((found.time - START) // SECOND).tolist() == [20]  # not raised once more
    assert found["state"].tolist() == [3.0]
    assert found["duration_s"].tolist() == [15.0]
    assert found["raised_1h"].tolist() == [1.0]


# configuration ------------------------------------------------------------------------------------

PLANT = """\
site: {id: works}
devices:
  cems-kiln:
    connect: modbus+tcp://127.0.0.1:1502?unit=1
    poll: 5s
    tags:
      nox: {at: "hr:0", type: f32, unit: mg/m3}
      o2: {at: "hr:2", type: f32, unit: "%"}
      state: {at: "hr:4", type: u16, kind: state}
metrics:
  kiln-stack: {type: emissions, nox: cems-kiln.nox, o2: cems-kiln.o2, o2_reference: 10, windows: [1min, 1h]}
alarms:
"""
EXAMPLE = '  nox-near-limit: {when: "kiln-stack.nox_corrected_1h > 90", delay: 1min, deadband: 5, priority: high}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('  a: {when: "cems-kiln.nox > 5 kW"}\n', "plant.yaml:13:7: alarms.a.when: mg/m3 and kW cannot be compared: both sides must be of one kind (at character 15)"),
        ("  a: {when: cems-kiln.nox}\n", "plant.yaml:13:7: alarms.a.when: is no condition: compare it with a limit"),
        ("  a: {when: cems-kiln.nix > 5}\n", 'plant.yaml:13:7: alarms.a.when: unknown tag "cems-kiln.nix" (did you mean "cems-kiln.nox"?)'),
        ("  a: {when: kiln-stack.nox_2h > 5}\n", '"kiln-stack.nox_2h" is no column of kiln-stack'),
        ("  a: {delay: 1min}\n", "plant.yaml:13:3: alarms.a: needs one of when, forecast, high, low, rate, stale"),
        ("  a: {tag: cems-kiln.nox, high: 5, low: 2}\n", "needs one of when, forecast, high, low, rate, stale: high and low stand here"),
        ("  a: {high: 5}\n", 'alarms.a: "tag" is missing: what high is about'),
        ("  a: {tag: cems-kiln.nox, high: 5 kWh}\n", "plant.yaml:13:27: alarms.a.high: mg/m3 and kWh cannot be compared: both sides must be of one kind"),
        ("  a: {tag: cems-kiln.nux, high: 5}\n", 'plant.yaml:13:7: alarms.a.tag: unknown tag "cems-kiln.nux"'),
        ("  a: {when: cems-kiln.nox > 5 or cems-kiln.o2 > 3, deadband: 2}\n", "plant.yaml:13:52: alarms.a.deadband: needs a condition that is one comparison: value > limit"),
        ("  a: {when: cems-kiln.nox > 5, priority: urgent}\n", "plant.yaml:13:32: alarms.a.priority:"),
        ("  a: {when: cems-kiln.nox > 5, deadbnad: 5}\n", 'unknown key "deadbnad" (did you mean "deadband"?)'),
        ("  a: {forecast: cems-kiln.nox > 5}\n", "alarms.a.forecast: names no mean of a window: write owner.column_1h (or _15min, _1d)"),
        ("  a: {when: cems-kiln.nox > 5, shelved: {until: tomorrow}}\n", 'alarms.a.shelved.until: "tomorrow" is not a time (write 2026-12-01T08:00)'),
        ("  a: {when: cems-kiln.nox > 5, suppress: cems-kiln.state}\n", "alarms.a.suppress: is no condition: compare it with a limit"),
        ("  a: {when: cems-kiln.nox > 5}\n  b: {when: a.value > 3}\n", "an alarm has rows only when it changes"),
        ("  kiln-stack: {when: cems-kiln.nox > 5}\n", '"kiln-stack" names a device already (line 11): one name, one thing'),
        ("  a: 5\n", "alarms.a: "),
    ],
)  # fmt: skip
def test_a_mistake_is_told_where_it_stands(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(PLANT + text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, env={})
    assert message in str(caught.value).replace(str(path), "plant.yaml")


async def test_the_contract_s_example_from_raw_rows_to_the_log(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(PLANT + EXAMPLE, "utf-8")
    config = load(path, env={})
    schema = schemas(config)["cems-kiln/raw"]
    n = 3 * 720 + 300  # three hours and 25 minutes, a row each 5 s
    hours = np.arange(n) // 720
    nox = np.array([60.0, 95.0, 88.0, 80.0])[hours]  # at 10 % O2 the corrected value is the same
    value = np.vstack([nox, np.full(n, 10.0), np.full(n, 1.0)])
    time = START + np.arange(n) * 5 * SECOND
    rows = SampleBlock(schema, time, value, np.zeros(value.shape, np.uint8))
    async with opened(config, tmp_path) as (outbox, pipeline, live):
        for i in range(0, n, 60):
            pipeline.push(rows.rows(i, min(n, i + 60)))
        await outbox.flush()
        found = derived(outbox)["nox-near-limit/event"]
        running = [r for r in pipeline.running() if r.schema.stream == "nox-near-limit/event"]
        last = live.last("nox-near-limit/event")
    values = [np.frombuffer(v) for _, v, _ in found]
    minutes = [(t - START) / MINUTE for t, _, _ in found]
    assert [v[0] for v in values] == [0.0, 1.0]
    # the hour's mean is known at 120 min, held for one minute; 88 is above 90 - 5: not back yet
    assert minutes[1] == 121.0
    assert values[1][2:4].tolist() == [95.0, 90.0]
    assert last is not None
    assert last["limit"].tolist() == [90.0]
    (now,) = running
    assert now["state"].tolist() == [1.0]
    assert now["value"].tolist() == [88.0]
    assert now["duration_s"].tolist() == [83 * 60.0]
