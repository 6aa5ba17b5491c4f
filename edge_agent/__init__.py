"""edge_agent: an agent for factory gateways that never passes off a guess as a measurement."""

__version__ = "0.1.0"
