"""Meters in octet frames in a configuration: what their addresses may be on one line."""

from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.errors import ConfigError
from simulators.tables import read_devices

SITE = "site: {id: a}\n"
TAGS = {
    "dlt645": "{e: {at: 'di:00010000', unit: kWh}}",
    "cjt188": "{v: {at: volume, unit: m3}}",
}


def plant(folder: Path, *connects: str, keys: str = "") -> Path:
    path = folder / "plant.yaml"
    devices = "".join(
        f"  m{i}: {{connect: '{connect}', tags: {TAGS[connect[:6]]}{keys if i else ''}}}\n"
        for i, connect in enumerate(connects)
    )
    path.write_text(f"{SITE}devices:\n{devices}")
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, env={})
    return [str(fault).partition(": ")[2] for fault in caught.value.faults]


@pytest.mark.parametrize("scheme", ["dlt645+tcp://h", "cjt188+tcp://h", "dlt645+serial:///dev/t"])
def test_several_meters_share_a_line(scheme: str, tmp_path: Path) -> None:
    one, other = f"{scheme}?address=1", f"{scheme}?address=2"

    assert len(load(plant(tmp_path, one, other, keys=", timeout: 3s, pause: 1s"), env={}).devices)


def test_editions_types_and_orders_may_differ_on_a_line(tmp_path: Path) -> None:
    load(
        plant(
            tmp_path,
            "cjt188+tcp://h?address=1&type=10&di=901F",
            "cjt188+tcp://h?address=2&type=30",
            "dlt645+tcp://g?address=1",
        ),
        env={},
    )


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("dlt645+tcp://h?address=42", "dlt645+tcp://h?address=000000000042", "000000000042"),
        ("dlt645+tcp://h?address=142", "dlt645+tcp://h?address=AAAAAAAAAA42", "AAAAAAAAAA42"),
        ("dlt645+tcp://h?address=142", "dlt645+tcp://h", "AAAAAAAAAAAA"),
        ("cjt188+tcp://h?address=42", "cjt188+tcp://h?address=42&type=20", "00000000000042"),
        ("cjt188+tcp://h?address=42", "cjt188+tcp://h", "AAAAAAAAAAAAAA"),
    ],
)
def test_two_meters_that_would_both_answer_are_named(
    one: str, other: str, told: str, tmp_path: Path
) -> None:
    assert mistakes(plant(tmp_path, one, other)) == [
        f'devices.m1.connect: address {told} of this link is "m0" already'
    ]


@pytest.mark.parametrize("link", ["tcp://h:4001", "serial:///dev/t"])
def test_a_line_has_one_protocol(link: str, tmp_path: Path) -> None:
    found = mistakes(plant(tmp_path, f"dlt645+{link}?address=1", f"cjt188+{link}?address=2"))

    assert found == [
        'devices.m1.connect: "m0" speaks another protocol on this line: a line has one'
    ]


def test_a_line_that_cannot_keep_up_with_its_polls_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    meter = "template: dlt645/three-phase"

    def devices(*polls: str, baud: int = 2400) -> Path:
        line = f"dlt645+serial:///dev/t?baud={baud}"
        text = "".join(
            f"  m{i}: {{connect: '{line}&address={i}', {meter}, poll: {poll}}}\n"
            for i, poll in enumerate(polls)
        )
        path.write_text(f"{SITE}devices:\n{text}")
        return path

    found = mistakes(devices("30s", "2s", "30s"))
    assert len(found) == 1
    assert found[0].startswith("devices.m1.poll: the polls of this line take 2")
    assert "poll less often" in found[0]
    assert load(devices("30s", "30s", "30s"), env={}).devices
    assert load(devices("30s", "2s", "30s", baud=9600), env={}).devices


def test_other_mistakes_of_a_meter_on_a_serial_line_are_told_once(tmp_path: Path) -> None:
    path = plant(tmp_path, "dlt645+serial:///dev/t?address=1")
    path.write_text(path.read_text().replace("tags:", "flag: {tag: x, normal: [0]}, tags:"))

    assert mistakes(path) == ['devices.m0.flag.tag: unknown tag "x" (there is e)']


def test_meters_of_one_serial_line_must_agree_on_its_speed(tmp_path: Path) -> None:
    line = "dlt645+serial:///dev/t"
    found = mistakes(plant(tmp_path, f"{line}?baud=9600&address=1", f"{line}?address=2"))

    assert len(found) == 1
    assert '"baud" is not given, but 9600 for "m0" on the same link' in found[0]


def test_a_tag_of_another_dimension_is_a_mistake(tmp_path: Path) -> None:
    path = plant(tmp_path, "dlt645+tcp://h?address=1")
    path.write_text(path.read_text().replace("kWh", "kW"))

    (told,) = mistakes(path)
    assert told.startswith('devices.m0.tags.e.unit: it has "kW", but the meter shows kWh')


@pytest.mark.parametrize(
    ("connect", "template"),
    [
        ("dlt645+tcp://127.0.0.1:5345?address=202305170042", "dlt645/three-phase"),
        ("dlt645+tcp://h?address=1&version=1997", "dlt645/1997"),
        ("cjt188+tcp://h?address=1", "cjt188/water"),
        ("cjt188+tcp://h?address=1&type=20", "cjt188/heat"),
        ("cjt188+tcp://h?address=1&type=30", "cjt188/gas"),
    ],
)
def test_a_meter_with_neither_template_nor_tags_has_the_usual_ones(
    connect: str, template: str, tmp_path: Path
) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(f"{SITE}devices:\n  em-office: {{connect: '{connect}', poll: 30s}}\n")
    device = load(path, env={}).devices["em-office"]
    (simulated,) = read_devices(path)

    assert device.template == template
    assert list(device.tags) == [tag.name for tag in simulated.tags]


def test_a_wrong_address_is_told_where_the_usual_template_does_not_help(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(f"{SITE}devices:\n  m: {{connect: 'cjt188+tcp://h?type=99'}}\n")

    assert [text.split(" (")[0] for text in mistakes(path)] == [
        "devices.m: has no tags: name a template or write tags",
        "devices.m.connect: type=99 is not possible",
    ]


def test_a_template_for_another_protocol_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    path.write_text(
        f"{SITE}devices:\n  m: {{connect: 'dlt645+tcp://h?address=1', template: cjt188/water}}\n"
    )

    assert '"cjt188/water" is a template for cjt188, but "connect" is dlt645' in mistakes(path)[0]


def test_a_meter_of_the_older_edition_says_so_in_its_address(tmp_path: Path) -> None:
    path = tmp_path / "plant.yaml"
    device = "  m: {connect: 'dlt645+tcp://h?address=1', template: dlt645/1997}\n"
    path.write_text(f"{SITE}devices:\n{device}")

    assert "with version=1997 in the address" in mistakes(path)[0]
    path.write_text(path.read_text().replace("address=1", "address=1&version=1997"))
    assert list(load(path, env={}).devices) == ["m"]
