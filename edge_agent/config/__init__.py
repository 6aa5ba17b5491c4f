"""YAML into a frozen typed tree: ``load`` returns a ``Config``, or raises with every mistake."""

from edge_agent.config.config import Config, Retention, Shifts, SiteConfig, SitePlant, Web
from edge_agent.config.entries import Registry
from edge_agent.config.loading import load, uncollected
from edge_agent.config.schema import json_schema
from edge_agent.config.tables import Tables, data_dir

__all__ = [
    "Config",
    "Registry",
    "Retention",
    "Shifts",
    "SiteConfig",
    "SitePlant",
    "Tables",
    "Web",
    "data_dir",
    "json_schema",
    "load",
    "uncollected",
]
