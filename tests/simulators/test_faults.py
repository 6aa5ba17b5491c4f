"""The script of trouble: what a file may say, and when its entries hold."""

import math
from pathlib import Path

import pytest

from simulators.faults import KINDS, Script, Trouble, read_script


def script(folder: Path, text: str) -> Script:
    path = folder / "faults.yaml"
    path.write_text(text, encoding="utf-8")
    return read_script(path)


def test_a_trouble_that_flaps_comes_back_each_period_until_its_end() -> None:
    flapping = Trouble("em", "silence", start=10.0, stop=31.0, every=10.0, lasts=2.0)

    ill = [second for second in range(40) if flapping.window(second)]

    assert ill == [10, 11, 20, 21, 30]
    assert flapping.window(30.5) == (30.0, 31.0)
    assert [flapping.next_change(t) for t in (0, 10, 11, 12, 30, 31)] == [
        10,
        12,
        12,
        20,
        31,
        math.inf,
    ]
    assert list(flapping.begun(25.0)) == [(20.0, 22.0), (10.0, 12.0)]


def test_times_count_from_the_plants_start_and_the_end_is_not_part_of_it(tmp_path: Path) -> None:
    read = script(tmp_path, "[{device: em, from: 1min, for: 90s, kind: delay, by: 20ms}]")

    assert [bool(read.now("em", t)) for t in (59.9, 60.0, 149.9, 150.0)] == [
        False,
        True,
        True,
        False,
    ]
    assert read.now("other", 60.0) == []
    assert read.now("em", 60.0)[0].by == 0.02
    assert read.next_change(["em"], 0.0, KINDS) == 60.0
    assert read.next_change(["em"], 0.0) == math.inf  # nothing that befalls the whole server


def test_what_is_left_out_is_as_usual(tmp_path: Path) -> None:
    read = script(
        tmp_path,
        "[{device: em, kind: busy}, {device: em, kind: hole, at: 'hr:3'},"
        " {device: em, kind: exception}, {device: em, kind: rollover}]",
    )

    assert [trouble.code for trouble in read.troubles[:3]] == [6, 2, 4]
    assert read.troubles[3].by == 5.0
    assert read.troubles[1].touches("hr", 2, 2)
    assert not read.troubles[1].touches("hr", 4, 2)


def test_every_mistake_of_a_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sulking") as raised:
        script(
            tmp_path,
            "- {device: a, kind: sulking}\n"
            "- {kind: silence, by: 2s}\n"
            "- device: a\n"
            "  kind: delay\n"
            "  by: soon\n"
            "- {device: a, kind: hole}\n"
            "- {device: a, kind: silence, from: 9s, to: 5s}\n"
            "- {device: a, kind: silence, every: 9s}\n"
            "- {device: a, kind: half-open, new: shy}\n"
            "- {device: a, kind: silence, from: [1]}\n"
            "- nonsense\n",
        )

    lines = str(raised.value).splitlines()
    assert [line.removeprefix(str(tmp_path / "faults.yaml:")).split(":")[0] for line in lines] == [
        "1", "2", "2", "3", "6", "7", "8", "9", "10", "11",
    ]  # fmt: skip
    assert "device is missing" in lines[1]
    assert "silence knows no by (takes nothing else)" in lines[2]
    assert 'by: "soon" is not possible (write 500ms)' in lines[3]
    assert "hole needs at" in lines[4]


@pytest.mark.parametrize("text", ["devices: {}", "[1, 2", "{device: a, kind: silence}"])
def test_a_file_that_is_no_list_is_refused_in_plain_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"faults\.yaml"):
        script(tmp_path, text)


def test_an_empty_file_is_no_trouble(tmp_path: Path) -> None:
    assert script(tmp_path, "# nothing\n").troubles == []


def test_a_device_that_the_configuration_does_not_have_is_named(tmp_path: Path) -> None:
    read = script(tmp_path, "- {device: a, kind: silence}\n- {device: b, kind: silence}\n")

    where = tmp_path / "faults.yaml"
    assert read.strangers(["a"]) == [f"{where}:2: there is no device b in the configuration"]
