"""A simulated cement plant that knows the truth of every figure the agent computes.

Shipped beside the agent and never imported by it: ``python -m simulators`` is a process of its
own. What it knows of the plant comes from ``plant.py`` (closed formulas of the time, nothing is
polled or stepped), and it encodes registers by itself, so a mistake of the agent's decoder is not
mirrored here.
"""
