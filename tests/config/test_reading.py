from pathlib import Path

import pytest

from edge_agent.config import json_schema
from edge_agent.config.tree import expand, of, parse, plain
from edge_agent.errors import Fault
from edge_agent.metrics.base import QualityLimits
from edge_agent.units import Secret
from tests.config.plants import DEVICE, REGISTRY, SITE, Meter, mistakes, plant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("16:00", "16:00"), ("2024-01-01", "2024-01-01"),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("1e8", 1e8), ("-.5", -0.5), ("7", 7), ("012", 12), ("0x1F", 31), ("0o17", 15),
        ("1_000", "1_000"),
        ("'7'", "7"), ("+12", 12), (".inf", float("inf")), ("-.INF", float("-inf")), ("1.", 1.0),
        ("0b1", "0b1"), ("!!str 7", "7"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_the_core_schema(written: str, meant: object) -> None:
    faults: list[Fault] = []
    assert plain(parse(f"a: {written}\n", "f", faults)) == {"a": meant}
    assert not faults


def test_a_merge_key_is_an_ordinary_key() -> None:
    assert plain(parse("<<: {a: 1}\n", "f", [])) == {"<<": {"a": 1}}


def test_a_variable_is_put_in_anywhere_in_a_text(tmp_path: Path) -> None:
    address = "'modbus+tcp://${HOST}:${PORT}'"
    device = f"devices: {{em: {{connect: {address}, ct: '${{CT}}', tags: {{e: {{at: hr1}}}}}}}}"
    env = {"HOST": "10.0.0.5", "PORT": "502", "CT": "40"}
    meter = plant(tmp_path, SITE + device, env=env).devices["em"]
    assert (meter.connect, meter.ct) == ("modbus+tcp://10.0.0.5:502", 40.0)
    assert type(meter.connect) is str


def test_a_variable_that_is_not_set_is_the_only_mistake_at_its_place(tmp_path: Path) -> None:
    device = "devices: {em: {connect: '${WHERE}', tags: {e: {at: hr1}}}}"
    [message] = mistakes(tmp_path, SITE + device)
    assert message == (
        'plant.yaml:2:16: devices.em.connect: the environment variable "WHERE" is not set'
    )


def test_the_text_of_a_variable_is_never_in_a_message(tmp_path: Path) -> None:
    [message] = mistakes(tmp_path, f"{SITE}{DEVICE}commit: '${{PW}}'\n", env={"PW": "hunter2"})
    assert "hunter2" not in message
    assert "${PW}" in message


def test_a_secret_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    sinks = (
        "sinks:\n  a: {type: mqtt, url: x, password: '${PW}'}\n"
        f"  b: {{type: mqtt, url: x, password: 'file:{tmp_path}/token'}}\n"
    )
    config = plant(tmp_path, SITE + DEVICE + sinks, env={"PW": "hunter2"})
    held = [getattr(sink, "password") for sink in config.sinks.values()]  # noqa: B009  of the small plug-in
    assert [secret.reveal() for secret in held] == ["hunter2", "s3cret"]
    assert "hunter2" not in repr(config.sinks)
    assert "s3cret" not in repr(config.sinks)


def test_a_secret_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    sinks = "sinks: {a: {type: mqtt, url: x, password: 'file:/no/such/file'}}\n"
    [message] = mistakes(tmp_path, SITE + DEVICE + sinks)
    assert "the file of the secret cannot be read: No such file" in message


def test_a_number_where_text_is_meant_is_the_digits_that_were_written(tmp_path: Path) -> None:
    device = "devices: {em: {connect: 'modbus+tcp://h', tags: {e: {at: 400010}, f: {at: 0x10}}}}"
    [message] = mistakes(tmp_path, SITE + device)
    assert '"0x10" is no address' in message  # and 400010 is one


def test_a_key_without_a_value_is_at_its_default(tmp_path: Path) -> None:
    text = f"{SITE}quality:\nsinks:\n{DEVICE}".replace("tags:", "poll: , tags:")
    config = plant(tmp_path, text)
    assert config.quality == QualityLimits()
    assert config.devices["em"].poll == 1.0


def test_an_overlay_adds_changes_and_takes_out(tmp_path: Path) -> None:
    text = f"{SITE}{DEVICE}sinks: {{a: {{type: mqtt, url: x}}, b: {{type: mqtt, url: y}}}}\n"
    overlay: dict[str, object] = {
        "data": "/var/lib/edge",
        "devices": {"em": {"connect": "modbus+tcp://127.0.0.1:40001"}},
        "sinks": {"a": None, "c": {"type": "mqtt", "url": "z", "password": Secret("p")}},
    }
    config = plant(tmp_path, text, overlay=overlay)
    assert config.devices["em"].connect == "modbus+tcp://127.0.0.1:40001"
    assert list(config.devices["em"].tags) == ["e"]
    assert list(config.sinks) == ["b", "c"]
    assert config.data == Path("/var/lib/edge")


def test_a_mistake_of_the_overlay_names_the_overlay_and_one_of_the_file_the_file(
    tmp_path: Path,
) -> None:
    overlay = {"devices": {"em": {"ct": "x"}}, "web": {"lisen": "x"}}
    text = SITE + DEVICE.replace("tags:", "pt: y, tags:")
    assert mistakes(tmp_path, text, overlay=overlay) == [
        "plant.yaml:2:47: devices.em.pt: must be a number",
        "overlay:0:0: devices.em.ct: must be a number",
        'overlay:0:0: web: unknown key "lisen" (did you mean "listen"?)',
    ]


def test_the_folder_of_the_data_is_relative_to_the_file(tmp_path: Path) -> None:
    assert plant(tmp_path, SITE + DEVICE).data == (tmp_path / "data").resolve()
    assert plant(tmp_path, f"{SITE}{DEVICE}data: ../x\n").data == tmp_path.parent.resolve() / "x"


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    config = plant(tmp_path, SITE + DEVICE)
    kept = config.retention
    days, gib = 86400, 1 << 30
    assert [kept.raw, kept.slots, kept.metrics] == [7.0 * days, 90.0 * days, 5.0 * 365 * days]
    assert [kept.raw_bytes, kept.slots_bytes, kept.metrics_bytes] == [2 * gib, gib, 2 * gib]
    assert (config.site.gateway, config.site.zone.key) == ("main", "Asia/Shanghai")
    assert (config.web.listen, config.commit) == ("127.0.0.1:8080", None)


def test_the_digest_depends_on_what_figures_depend_on_and_on_no_secret(tmp_path: Path) -> None:
    def digest(text: str, password: str = "a") -> str:
        return plant(tmp_path, SITE + text, env={"PW": password}).digest

    login = DEVICE.replace("tags:", "login: {user: u, password: '${PW}'}, tags:")
    assert digest(login, "a") == digest(login, "b")
    assert digest(DEVICE) == digest(f"{DEVICE}web: {{listen: '127.0.0.1:0'}}\ncommit: 1s\n")
    assert digest(DEVICE) != digest(DEVICE.replace("tags:", "ct: 40, tags:"))
    assert digest(DEVICE) != digest(f"{DEVICE}shifts: {{calendar: {{A: '08:00-16:00'}}}}\n")


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = plant(tmp_path, SITE + DEVICE)
    with pytest.raises(TypeError, match="item assignment"):
        config.devices["x"] = config.devices["em"]  # type: ignore[index]  # that is what is tested


def test_the_plant_finds_the_streams_of_a_tag(tmp_path: Path) -> None:
    device = (
        "devices:\n  em:\n    connect: modbus+tcp://h\n    poll: {fast: 1s, slow: 60s}\n"
        "    tags: {p: {at: hr1, unit: kW}, e: {at: hr2, class: slow, kind: counter, unit: kWh},"
        " s: {at: hr3, kind: state, class: slow}}\n    flag: {tag: s, normal: [0]}\n"
    )
    asked = plant(tmp_path, SITE + device).plant()
    assert [asked.raw(f"em.{tag}").stream for tag in "pes"] == [
        "em/raw",
        "em/raw.slow",
        "em/raw.slow",
    ]
    assert asked.slot("em.e").stream == "em/slot.slow"
    rows = asked.coefficients("electricity", "equivalent", "GB/T 2589")
    assert [row.kgce_per_unit for row in rows] == [0.1229]
    with pytest.raises(KeyError, match="has no value yet"):
        asked.coefficients("electricity", "equal-value", "GB/T 2589")


def test_the_levels_of_a_product_are_shown_beside_its_figure(tmp_path: Path) -> None:
    metrics = "metrics: {clinker: {type: energy, product: cement-clinker}}\n"
    [(key, levels)] = plant(tmp_path, SITE + DEVICE + metrics).targets().items()
    assert key == "clinker.intensity"
    assert [bound for _, bound in levels] == [100.0, 107.0, 117.0]
    assert levels[0][0] == "1级（未核准）/level 1 (unapproved)"


def test_expanding_leaves_what_is_no_text_alone() -> None:
    tree = of({"a": [1, "${X}"], "b": None}, parse("", "f", []).mark)
    assert plain(expand(tree, {"X": "y"}, [])) == {"a": [1, "y"], "b": None}


def test_the_schema_for_editors_knows_types_and_plain_keys() -> None:
    schema = json_schema(REGISTRY)
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert definitions["Broker"]["properties"]["type"] == {"const": "mqtt"}
    assert "type" in definitions["Broker"]["required"]
    assert "class" in definitions["TagConfig"]["properties"]
    assert "required" not in definitions["TagConfig"]
    assert definitions[Meter.__name__]["additionalProperties"] is False
    assert definitions["Login"]["properties"]["password"]["anyOf"][0]["type"] == "string"
    assert "default" not in definitions["PollClasses"]["properties"]["fast"]
