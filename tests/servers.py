"""Real servers on free loopback ports for tests: mosquitto, InfluxDB behind nginx, VictoriaMetrics.

Each is a context manager with plain synchronous methods that return when it is done (a start within
``READY`` seconds), so an asynchronous test calls them directly or through ``asyncio.to_thread``::

    with Mosquitto(tmp_path) as broker:          # also the fixtures mosquitto, influx,
        with broker.subscriber() as seen:        # victoria_metrics of conftest.py
            ...                                  # broker.url, broker.port
            seen.wait_for(3)                     # seen.messages: topic, payload, json, retained
        broker.stop()                            # orderly; kill() is SIGKILL
        broker.start()                           # the same port and, unless killed, the same data
        broker.pause(); broker.resume()          # SIGSTOP: it accepts and never answers

    with Influx(tmp_path) as influx:             # influx.url .org .bucket .token
        influx.query('select * from "sample"')   # rows as dicts, time in ns
    with VictoriaMetrics(tmp_path) as store:     # store.url
        store.series("sample_active_power")      # [(labels, [(ms, value)])]

Configuration, data and logs stand in the folder given. They run as root and as any other user.
Their ports lie below those that the system gives to clients, so that a restart finds its own free.
"""

from tests.broker import Certificates, Message, Mosquitto, Subscriber, certificates
from tests.databases import Influx, VictoriaMetrics
from tests.process import HOST, Server, answers, free_port, listens, program, wait_until

__all__ = [
    "HOST",
    "Certificates",
    "Influx",
    "Message",
    "Mosquitto",
    "Server",
    "Subscriber",
    "VictoriaMetrics",
    "answers",
    "certificates",
    "free_port",
    "listens",
    "program",
    "wait_until",
]
