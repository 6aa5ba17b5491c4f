"""A broker in a plant's file: faults stand at their line, files are found, remarks are made."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.check import summary
from edge_agent.config import load
from edge_agent.errors import ConfigError
from edge_agent.sinks.mqtt import MqttConfig

METER = {"connect": "modbus+tcp://127.0.0.1:1", "template": "acrel/adl3000"}


def written(folder: Path, **sinks: dict[str, Any]) -> Path:
    path = folder / "plant.yaml"
    tree = {"site": {"id": "works"}, "data": "store", "devices": {"em": METER}}
    brokers = {name: {"type": "mqtt", "url": "mqtt://h"} | more for name, more in sinks.items()}
    path.write_text(yaml.safe_dump(tree | {"sinks": brokers}, sort_keys=False))
    return path


def faults(path: Path, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(path, env=env)
    return [f"{fault.line}: {fault.message}" for fault in error.value.faults if fault]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version": 3.1}, '12: sinks.broker.version: "3.1" is not one of 5, 3.1.1 (did you mean'),
        ({"version": 4}, '12: sinks.broker.version: "4" is not one of 5, 3.1.1'),
        ({"version": "5"}, '12: sinks.broker.version: "5" is a text: write 5 without quotes'),
        ({"payload": "json"}, '12: sinks.broker.payload: "json" is not one of columns, rows'),
        ({"topic": "edge/{device}/{name}"}, "12: sinks.broker.topic: there is no {device}"),
        ({"topic": "edge/{owner}"}, "12: sinks.broker.topic: without {name} several streams"),
        ({"client_id": "{name}"}, "12: sinks.broker.client_id: there is no {name}"),
    ],
)
def test_a_mistake_stands_at_its_line(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    (fault,) = faults(written(tmp_path, broker=options))
    assert fault.startswith(said), fault


def test_two_sinks_that_would_throw_each_other_out_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, a={}, b={"url": "mqtt://h:1883", "payload": "rows"}, c={})
    told = faults(path)
    assert len(told) == 2
    assert 'sinks.b: has the client id of sink "a" at the same broker' in told[0]
    assert '(write client_id: "{site}-{gateway}-b")' in told[0]
    apart = written(tmp_path, a={}, b={"client_id": "{site}-{gateway}-b"}, c={"url": "mqtt://k"})
    assert len(load(apart, env={}).sinks) == 3


def test_files_are_found_below_the_data_folder(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        broker={"url": "mqtts://h", "ca": "pem/ca.pem", "certificate": "/etc/own.pem",
                "private_key": "~/own.key"},
    )  # fmt: skip
    broker = load(path, env={}).sinks["broker"]
    assert isinstance(broker, MqttConfig)
    assert broker.ca == str(tmp_path / "store" / "pem" / "ca.pem")
    assert broker.certificate == "/etc/own.pem"
    assert broker.private_key == str(Path("~/own.key").expanduser())


def test_check_says_what_the_old_protocol_cannot(tmp_path: Path) -> None:
    def attention(version: object) -> list[str]:
        config = load(written(tmp_path, broker={"version": version}), env={})
        return [line for line in summary(config) if line.startswith("attention broker")]

    assert attention(5) == []
    (said,) = attention("3.1.1")
    assert "counts as delivered (write version: 5" in said


def test_a_password_comes_from_the_environment_and_is_shown_nowhere(tmp_path: Path) -> None:
    path = written(tmp_path, broker={"user": "edge", "password": "${PW}"})
    config = load(path, env={"PW": "hunter2"})
    broker = config.sinks["broker"]
    assert isinstance(broker, MqttConfig)
    assert broker.password is not None
    assert broker.password.reveal() == "hunter2"
    assert "hunter2" not in repr(config) + "\n".join(summary(config))
    (unset,) = faults(path)
    assert "PW" in unset
