"""Makes paho quick where it pays: at the acknowledgements.

For each PUBACK paho copies its tables of reason codes and of properties, which takes as long as all
the rest of a message. And the kernel puts TCP's acknowledgements off for 40 ms when no message
follows, while a broker with Nagle's algorithm (mosquitto by default) waits for them with all
PUBACKs behind the first. Both are mended in the one method of paho that takes a PUBACK.
"""

import socket
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.enums import MQTTErrorCode

ACCEPTED = (0, 16)  # reason codes of a PUBACK that are no failure; 16: nobody has subscribed


def quicken(paho: "Client") -> None:
    """Let a client take the usual PUBACK in few steps; any other goes paho's own way."""
    from paho.mqtt.enums import MQTTErrorCode
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    slowly = paho._handle_pubackcomp  # noqa: SLF001 - paho has no other place for it
    codes = {code: ReasonCode(PacketTypes.PUBACK, identifier=code) for code in ACCEPTED}
    none = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call] # not annotated

    def handle(kind: Literal["PUBACK", "PUBCOMP"]) -> "MQTTErrorCode":
        _acknowledge(paho)
        packet = paho._in_packet["packet"]  # noqa: SLF001 - packet id, code, size of properties
        code = codes.get(packet[2] if len(packet) > 2 else 0)
        if code is None or not 2 <= len(packet) <= 4 or any(packet[3:]) or kind != "PUBACK":
            return slowly(kind)
        number = packet[0] << 8 | packet[1]
        with paho._out_message_mutex:  # noqa: SLF001
            if number in paho._out_messages:  # noqa: SLF001
                return paho._do_on_publish(number, code, none)  # noqa: SLF001
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    paho._handle_pubackcomp = handle  # type: ignore[method-assign,assignment]  # noqa: SLF001


def _acknowledge(paho: "Client") -> None:
    """Acknowledge what TCP has brought so far, now; costs nothing when that is done."""
    link = cast("socket.socket | None", paho.socket())
    if link is not None:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
