"""The registry of sinks: a config class named here can be written in a configuration."""

from edge_agent.sinks.base import SinkConfig
from edge_agent.sinks.influxdb import InfluxConfig
from edge_agent.sinks.mqtt import MqttConfig

SINKS: tuple[type[SinkConfig], ...] = (MqttConfig, InfluxConfig)
