from pathlib import Path

from tests.config.plants import SITE, mistakes, plant

METER = """\
maker: Maker
model: M1
protocol: modbus
source: "manual, page 1"
values: secondary
limits: {max_registers: 60, max_gap: 8, pause: 20ms, sections: [[0x0000, 0x00FF]]}
tags:
  energy: {at: hr10, unit: kWh, kind: counter, ratio: ct*pt, modulus: 1e8, class: slow}
  voltage: {at: hr20, unit: V, ratio: pt, scale: 0.1}
  current: {at: hr30, unit: A, ratio: ct}
"""


def template(folder: Path, text: str, name: str = "maker/m1") -> None:
    path = folder / "meters" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def device(keys: str, name: str = "em", unit: int = 1) -> str:
    link = f"connect: 'modbus+tcp://h?unit={unit}', template: maker/m1, pause: 20ms"
    return f"  {name}: {{{link}{keys}}}\n"


def test_a_device_has_the_tags_and_limits_of_its_template(tmp_path: Path) -> None:
    template(tmp_path, METER)
    meter = plant(tmp_path, f"{SITE}devices:\n{device(', ct: 40, pt: 100')}").devices["em"]
    assert list(meter.tags) == ["energy", "voltage", "current"]
    assert meter.tags["energy"].class_ == "slow"
    assert meter.ratio_of(meter.tags["energy"]) == 4000
    assert float(meter.ratio_of(meter.tags["voltage"])) == 10.0
    limits = [getattr(meter, key) for key in ("max_registers", "max_gap", "pause", "sections")]
    assert limits == [60, 8, 0.02, ((0, 255),)]


def test_its_own_keys_are_laid_over_those_of_the_template(tmp_path: Path) -> None:
    template(tmp_path, METER)
    keys = ", max_gap: 0, tags: {voltage: {range: [0, 500]}, current: null, flow: {at: hr40}}"
    meter = plant(tmp_path, f"{SITE}devices:\n{device(keys)}").devices["em"]
    assert list(meter.tags) == ["energy", "voltage", "flow"]
    voltage = meter.tags["voltage"]
    assert (voltage.at, voltage.scale, voltage.range) == ("hr20", 0.1, (0.0, 500.0))
    assert getattr(meter, "max_gap") == 0  # noqa: B009  of the small plug-in


def test_ratios_are_not_applied_again_to_primary_values(tmp_path: Path) -> None:
    template(tmp_path, METER.replace("secondary", "primary"))
    meter = plant(tmp_path, f"{SITE}devices:\n{device(', ct: 40, pt: 100')}").devices["em"]
    assert meter.ratio_of(meter.tags["energy"]) == 1
    assert {tag.ratio for tag in meter.tags.values()} == {"1"}


def test_a_mistake_in_a_template_is_told_once_and_where_it_stands(tmp_path: Path) -> None:
    wrong = METER.replace("unit: V", "unti: V").replace("hr30", "zz").replace("maker:", "maker1:")
    template(tmp_path, wrong)
    twice = device("") + device("", "em-2", 2)
    assert mistakes(tmp_path, f"{SITE}devices:\n{twice}") == [
        'meters/maker/m1.yaml:1:1: "maker" is missing',
        'meters/maker/m1.yaml:1:1: unknown key "maker1" (did you mean "maker"?)',
        'meters/maker/m1.yaml:9:23: tags.voltage: unknown key "unti" (did you mean "unit"?)',
    ]


def test_what_only_the_driver_finds_in_a_template_is_told_there_too(tmp_path: Path) -> None:
    template(tmp_path, METER.replace("hr30", "zz"))
    twice = device("") + device("", "em-2", 2)
    assert mistakes(tmp_path, f"{SITE}devices:\n{twice}") == [
        'meters/maker/m1.yaml:10:13: tags.current.at: "zz" is no address'
    ]


def test_a_template_that_is_not_yaml_does_not_hide_other_mistakes(tmp_path: Path) -> None:
    template(tmp_path, "tags: [")
    told = mistakes(tmp_path, f"{SITE}devices:\n{device('')}webb: 1\n")
    assert told[0] == 'plant.yaml:4:1: unknown key "webb" (did you mean "web"?)'
    assert told[1].startswith("meters/maker/m1.yaml:2:1: this is not YAML")


def test_a_template_for_another_protocol_is_refused(tmp_path: Path) -> None:
    template(tmp_path, METER.replace("protocol: modbus", "protocol: opcua"))
    [told] = mistakes(tmp_path, f"{SITE}devices:\n{device('')}")
    assert told == (
        'plant.yaml:3:42: devices.em.template: "maker/m1" is a template for opcua, '
        'but "connect" is modbus+tcp://'
    )


def test_a_name_that_leaves_the_folder_is_an_unknown_template(tmp_path: Path) -> None:
    template(tmp_path, METER)
    (tmp_path / "secret.yaml").write_text(METER)
    text = f"{SITE}devices:\n{device('')}".replace("maker/m1", "../secret")
    assert 'unknown template "../secret"' in mistakes(tmp_path, text)[0]


def test_devices_of_one_link_must_agree_on_its_pause(tmp_path: Path) -> None:
    template(tmp_path, METER)
    template(tmp_path, METER.replace("20ms", "50ms"), "maker/m2")
    one, two = (
        f"  em-{n}: {{connect: 'modbus+tcp://h?unit={n}', template: maker/m{n}}}\n" for n in (1, 2)
    )
    [told] = mistakes(tmp_path, f"{SITE}devices:\n{one}{two}")
    assert told.startswith('plant.yaml:4:3: devices.em-2: "pause" is 0.05s, but 0.02s for "em-1"')
