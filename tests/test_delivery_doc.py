"""What docs/delivery.md tells people to type does what it says, with the real programs."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_agent.sinks.mqtt import MqttConfig
from edge_agent.sinks.mqtt_payload import columns, rows
from tests.process import program
from tests.servers import Certificates, Mosquitto
from tests.sinks.blocks import SITE, block, schema

PAGE = (Path(__file__).parents[1] / "docs" / "delivery.md").read_text("utf-8")
MQTT = PAGE.partition("\n## MQTT\n")[2].partition("\n## ")[0]
KILN = schema("em-kiln/raw", "active_power", "running")


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", MQTT, re.DOTALL)


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """A folder in which the commands of the page were typed."""
    (commands,) = code("sh")
    subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


async def test_the_commands_for_tls_let_a_gateway_in(typed: Path) -> None:
    made = Certificates(*(typed / name for name in (
        "ca.pem", "broker.pem", "broker.key", "gateway.pem", "gateway.key")))  # fmt: skip
    with Mosquitto(typed, certificates=made, require_certificate=True) as broker:
        config = MqttConfig(
            url=broker.url, ca="ca.pem", certificate="gateway.pem", private_key="gateway.key"
        )
        sink = config.below(typed).build(SITE)
        await sink.connect()
        await sink.write([block(KILN)])
        await sink.close()


def test_the_messages_shown_are_those_that_are_sent() -> None:
    whole, single = map(json.loads, code("json"))
    sent = block(KILN, 2)
    assert set(orjson.loads(columns(sent))) == set(whole)
    assert set(orjson.loads(rows(sent)[1])) == set(single)
    assert {name: values[1] for name, values in whole["v"].items()} | {"t": whole["t"][1]} == {
        key: value for key, value in single.items() if key != "q"
    }


def test_the_function_for_node_red_makes_a_message_of_each_row() -> None:
    (body,) = code("js")
    sent = columns(block(KILN, 3), backlog=True).decode()
    message = json.dumps({"topic": "edge/works/em-kiln/raw", "payload": json.loads(sent)})
    script = f"const f = new Function('msg', {json.dumps(body)});"
    script += f"console.log(JSON.stringify(f({message})));"
    done = subprocess.run([program("node"), "-e", script], capture_output=True, check=True)
    made: list[dict[str, Any]] = json.loads(done.stdout)[0]
    wanted = [json.loads(row) for row in rows(block(KILN, 3))]
    assert [one["payload"] for one in made] == [
        {name: row[name] for name in ("active_power", "running")} for row in wanted
    ]
    assert all(one["late"] and one["topic"].endswith("raw") for one in made)
