# ruff: noqa: E501  a table of mistakes and messages is read line by line
from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.errors import ConfigError
from tests.config.plants import DEVICE, REGISTRY, SITE, mistakes, plant

METRIC = "metrics: {m: {type: energy, inputs: {none: [em.e]}, windows: [shift]}}\n"
HERE = Path(__file__).parent


def test_all_mistakes_are_told_at_once_each_at_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(HERE)
    with pytest.raises(ConfigError) as caught:
        load(Path("mistakes.yaml"), env={}, registry=REGISTRY)
    assert str(caught.value).splitlines() == (HERE / "mistakes.txt").read_text("utf-8").splitlines()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\nb: 2\n", "plant.yaml:2:2: this is not YAML"),
        ("a: 1\n\tb: 2\n", "plant.yaml:2:1: this is not YAML"),
        ("a: 1\n--- \nb: 2\n", "plant.yaml:2:1: this is not YAML"),
        ("[1, 2]\n", "plant.yaml:1:1: must be a mapping"),
        ("? {a: 1}\n: 2\n", "plant.yaml:1:3: a key must be text"),
        ("site: &a {id: x, name: *a}\n", "an alias must not contain itself"),
        ("site: {id: !!python/name:os.system x}\n", "is not possible here"),
        ("", 'plant.yaml:1:1: "devices" is missing'),
    ],
)
def test_a_file_that_is_no_tree_is_told_with_its_place(
    tmp_path: Path, text: str, told: str
) -> None:
    assert told in "\n".join(mistakes(tmp_path, text))


def test_a_file_that_is_not_there_is_a_mistake_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plant\.yaml:1:1: cannot be read: No such file"):
        load(tmp_path / "sub" / "plant.yaml")


def test_a_file_that_is_not_utf8_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "plant.yaml").write_bytes("site: {name: 示范}".encode("gbk"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(tmp_path / "plant.yaml")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("web: {listen: here}", 'web.listen: "here" is not an address (write "127.0.0.1:8080")'),
        ("web: {listen: '0.0.0.0:80'}", 'web.listen: "0.0.0.0:80" is open to the network, and the page has no users yet: listen on "127.0.0.1:80"'),
        ("web: {listen: '[::]:80'}", 'web.listen: "[::]:80" is open to the network, and the page has no users yet: listen on "127.0.0.1:80"'),
        ("web: {listen: '192.168.1.9:80'}", 'web.listen: "192.168.1.9:80" is open to the network, and the page has no users yet: listen on "127.0.0.1:80"'),
        ("web: {listen: 'gateway.plant:80'}", 'web.listen: "gateway.plant:80" is open to the network, and the page has no users yet: listen on "127.0.0.1:80"'),
        ("quality: {bad_below: 0.99}", "quality: must be 0 <= bad_below <= uncertain_below <= 1"),
        ("quality: {bad_below: high}", "quality.bad_below: must be a number"),
        ("shifts: {calendar: {A: '8-16'}}", 'shifts.calendar.A: "8-16" is not a shift'),
        (
            "shifts: {calendar: {A: '08:00-16:00', N: '22:00-09:00'}}",
            'shifts.calendar.N: overlaps with shift "A"',
        ),
        ("retention: {raw_bytes: 2GB}", "'2GB' is not a size (write 64MiB, 2GiB)"),
        ("retention: {raw_bytes: 31MiB}", "must be at least 32MiB"),
        ("retention: {slots_bytes: 1MiB}", "must be at least 8MiB"),
        ("retention: {metrics_bytes: 0MiB}", "must be at least 16MiB"),
        ("commit: soon", "commit: 'soon' is not a duration"),
        ("sinks: {history: {type: mqtt, url: x}}", 'the name "history" is taken'),
        ("sinks: {b: {type: mqtt, url: x, streams: [en/raw]}}", '"en/raw" matches no device and no metric'),
        ("sinks: {b: {type: mqtt, url: x, live_first_after: 0s}}", "60s, or never"),
        ("sinks: {b: {type: mqtt, url: x, backlog_rate: -1}}", "backlog_rate is rows per second"),
        ("sinks: [a, b]", "sinks: must be a mapping"),
        ("sinks: {b: 5}", "sinks.b: must be a mapping"),
        ("metrics: {m: {type: energy, product: cemnt}}", 'is no product of configs/benchmarks (did you mean "cement"?)'),
        ("metrics: {m: {type: energy, windows: [1min, 1min]}}", "metrics.m.windows: a window stands twice"),
        ("metrics: {m: {type: energy, windows: []}}", "metrics.m.windows: needs at least one window (without the line: the usual ones)"),
        ("metrics: {m: {type: energy, inputs: {electricity: [em.e, em.e]}}}", 'metrics.m.inputs.electricity[1]: "em.e" is in this list already: it would count twice'),
        ("metrics: {m: {type: energy, inputs: {electricity: em.e}}}", "must be a mapping: {key: value} or a list: [a, b]"),
        ("metrics: {m: {type: energy, inputs: {electricity: {tag: [em.e]}}}}", 'unknown key "tag" (did you mean "tags"?)'),
        ("metrics: {m: {type: energy, inputs: {electrcity: [em.e]}}}", 'no coefficient for "electrcity"'),
        ("metrics: {m: {type: energy, inputs: {electricity: [em.none]}}}", 'unknown tag "em.none"'),
        ("metrics: {m: {type: energy, inputs: {electricity: [em]}}}", '"em" is not a tag: write device.tag (did you mean "em.e"?)'),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_plain_words_in_its_line(
    tmp_path: Path, section: str, told: str
) -> None:
    messages = mistakes(tmp_path, f"{SITE}{DEVICE}{section}\n")
    assert any(told in message for message in messages)
    assert all(message.startswith("plant.yaml:3:") for message in messages)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("poll: {fast: 1, slw: 2s}", ["poll.fast: 1 is not a duration", 'poll: unknown key "slw"']),
        ("poll: [1s]", ["poll: ['1s'] is not a duration"]),
        ("poll: 1ms", ["poll: a poll period must be at least 10ms"]),
        ("timeout: 0s", ["timeout: must be longer than 0s"]),
        ("max_gap: 1.5", ["max_gap: must be a whole number"]),
        ("ct: .nan", ["ct: must be a number, not inf or nan"]),
        ("sections: [[1]]", ["sections[0]: item 2 is missing"]),
        ("login: {usr: x}", ['login: "user" is missing', 'login: unknown key "usr"']),
        ("login: {user: x, password: abc}", ["login.password: a secret does not stand in the file"]),
        ("url: x", ['unknown key "url"']),
    ],
)  # fmt: skip
def test_a_wrong_key_of_a_device_is_told_in_plain_words(
    tmp_path: Path, keys: str, told: list[str]
) -> None:
    device = (
        f"devices:\n  em:\n    connect: modbus+tcp://h\n    {keys}\n    tags: {{e: {{at: hr1}}}}\n"
    )
    messages = mistakes(tmp_path, SITE + device)
    assert len(messages) == len(told)
    for message, expected in zip(messages, told, strict=True):
        assert f"devices.em{'' if expected.startswith('unknown') else '.'}" in message
        assert expected in message
        assert message.startswith(("plant.yaml:5:5", "plant.yaml:5:"))


@pytest.mark.parametrize("address", ["modbus+tcp://h:99999", "modbus+tcp://[::1", "h:502", "5"])
def test_an_address_that_is_none_is_a_mistake_at_connect(tmp_path: Path, address: str) -> None:
    device = f"devices:\n  em:\n    connect: '{address}'\n    tags: {{e: {{at: hr1}}}}\n"
    [message] = mistakes(tmp_path, SITE + device)
    assert message.startswith("plant.yaml:4:5: devices.em.connect: ")


def test_a_wrong_device_neither_hides_others_nor_blames_those_who_use_it(tmp_path: Path) -> None:
    text = SITE + (
        "devices:\n"
        "  a: {connect: 'modbus+tcp://h', ct: no, tags: {e: {at: hr1, unit: kWh, kind: counter}}}\n"
        "  b: {connect: 'modbus+tcp://g', tags: {e: {at: zz}}}\n"
        "metrics: {m: {type: energy, inputs: {electricity: [a.e]}}}\n"
    )
    assert mistakes(tmp_path, text) == [
        "plant.yaml:3:34: devices.a.ct: must be a number",
        'plant.yaml:4:45: devices.b.tags.e.at: "zz" is no address',
    ]


def test_a_right_file_has_no_mistakes(tmp_path: Path) -> None:
    assert plant(tmp_path, SITE + DEVICE).devices["em"].tags["e"].unit == "kWh"


def test_a_wrong_shift_is_not_told_again_at_the_metrics(tmp_path: Path) -> None:
    told = mistakes(tmp_path, f"{SITE}{DEVICE}shifts: {{calendar: {{A: x}}}}\n{METRIC}")
    assert told == ['plant.yaml:3:21: shifts.calendar.A: "x" is not a shift (write "08:00-16:00")']


def test_a_tag_without_a_value_is_no_tag(tmp_path: Path) -> None:
    text = SITE + DEVICE.replace("tags: {", "tags: {none: , ") + METRIC.replace("shift", "1h")
    [told] = mistakes(tmp_path, text.replace("em.e", "em.none"))
    assert 'unknown tag "em.none"' in told
