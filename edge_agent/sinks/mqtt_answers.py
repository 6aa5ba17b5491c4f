"""What a broker's answers mean, in plain words with what would be right.

Source: reason codes of MQTT 5.0, 2.4; return codes of MQTT 3.1.1, 3.2.2.3.
"""

from edge_agent.errors import Disconnected

TEMPORARY = {0x91, 0x97}  # of a PUBACK: the broker takes the same message later
DOUBTFUL = {0x80, 0x83}  # of a PUBACK: it does not say whether the message or itself is at fault
# of a DISCONNECT: the message before it is at fault
BLAMING = {0x87, 0x90, 0x95, 0x99, 0x9A, 0x9B}
# of a DISCONNECT: the broker has reasons of its own
BLAMELESS = {0x89, 0x8B, 0x8D, 0x8E, 0x93, 0x96, 0x97, 0x98, 0x9C, 0x9D, 0x9F, 0xA0}
TAKEN_OVER = 0x8E
TOO_LARGE = 0x95
RETAIN_NOT_SUPPORTED = 0x9A
THROWN_OUT = 60.0  # seconds; two gateways under one client id would throw each other out for ever
UNSUPPORTED = (1, 0x84)  # versions, as a broker of either version says it

BLIND = (
    "MQTT 3.1.1 has no answer for a message that the broker's rules forbid: it counts as delivered "
    "(write version: 5 if the broker speaks it)"
)
VERSION = "this broker does not speak MQTT {0}: write version: {1}"
OLD = " One that does not speak MQTT 5 may do that too: write version: 3.1.1 for it"
_CONNECT = {
    0x85: "the broker does not take the client id {id!r}: write another client_id",
    0x86: "user or password is wrong: mend user and password of this sink",
    0x87: "user or password is wrong, or the user may not log in or publish to {state!r}: mend "
    "user and password of this sink, or the broker's rules",
    0x88: "the broker is not available now",
    0x89: "the broker is busy",
    0x8A: "the broker has banned this client ({id!r}): ask who keeps the broker",
    0x8C: "the broker wants another way to log in than user and password or a certificate",
    0x90: "the broker does not take the topic {state!r}: write another topic",
    0x95: "the broker does not take a packet of this size: write a shorter topic or client_id",
    0x97: "the broker says that a quota is exceeded",
    0x9B: "the broker acknowledges no message (maximum QoS 0), so nothing could be proven to be "
    "delivered: let it take QoS 1",
    0x9C: "the broker says that another one is to be used: mend url",
    0x9D: "the broker has moved: mend url",
    0x9F: "the broker takes no more connections for now",
}
_PARTING = {
    TAKEN_OVER: "another client logged in under the client id {id!r} and took this one's place: "
    "two gateways with the same site id and gateway? Write another gateway, or client_id",
    0x8B: "the broker shuts down",
    0x8D: "the broker heard nothing in time (keep alive)",
    0x98: "somebody ended the connection at the broker",
    0x9C: "the broker says that another one is to be used: mend url",
    0x9D: "the broker has moved: mend url",
}
_TLS = {  # what OpenSSL says, and what it comes from
    "CERTIFICATE_REQUIRED": "the broker wants a certificate of this gateway: write certificate and "
    "private_key",
    "ALERT_UNKNOWN_CA": "the broker does not know the authority that signed certificate",
    "ALERT_CERTIFICATE_EXPIRED": "the broker says that certificate has ended, or one of the clocks "
    "is wrong",
    "ALERT_CERTIFICATE_UNKNOWN": "the broker does not accept certificate",
    "ALERT_BAD_CERTIFICATE": "the broker does not accept certificate",
    "ALERT_HANDSHAKE_FAILURE": "broker and gateway have no cipher in common, or it wants a "
    "certificate",
    "certificate has expired": "the broker's certificate has ended, or this gateway's clock is "
    "wrong",
    "certificate is not yet valid": "the broker's certificate begins later: is this gateway's "
    "clock right?",
    "Hostname mismatch": "write in url a name that stands in the broker's certificate",
    "IP address mismatch": "write in url a name that stands in the broker's certificate",
    "CERTIFICATE_VERIFY_FAILED": "the broker's certificate was not signed by the authority in ca: "
    "write the PEM file of the right one",
    "WRONG_VERSION_NUMBER": "this port is without TLS: write mqtt://, or the port with TLS",
}


def told(code: int, name: str, words: dict[int, str], **parts: str) -> str:
    """Return what an answer means; by its name where there is nothing more to say."""
    meant = words.get(code)
    said = f"{name} ({code})"
    return f"{meant.format(**parts)} ({said})" if meant else f"the broker answered: {said}"


def refused_connect(code: int, name: str, *, identity: str, state: str) -> str:
    """Return why the broker has not let the gateway in."""
    return told(code, name, _CONNECT, id=identity, state=state)


def parted(code: int, name: str, *, identity: str) -> Disconnected:
    """Return what a DISCONNECT of the broker means."""
    known = told(code, name, _PARTING, id=identity)
    text = known if code in _PARTING else f"the broker ended the connection: {name} ({code})"
    return Disconnected(text, retry_after=THROWN_OUT if code == TAKEN_OVER else None)


def perhaps_taken_over(said: str, identity: str) -> str:
    """Return a loss that comes again and again, with the likely reason."""
    return (
        f"{said}, again and again: perhaps another client logs in under the client id {identity!r} "
        "(two gateways with the same site id and gateway?): write another gateway, or client_id"
    )


def tls_hint(said: str) -> str:
    """Return what an error of the encryption comes from, in brackets; nothing if it is none."""
    return next((f" ({meant})" for sign, meant in _TLS.items() if sign in said), "")


def stranger(heard: bytes, version: object) -> str | None:
    """Return what the first bytes mean that came back, if they are no greeting."""
    if not heard:
        return None
    if heard.startswith((b"HTTP/", b"<")):
        return "a web server answers there, no MQTT broker: compare host and port (1883 is usual)"
    if heard[:2] == b"\x15\x03":
        return "this port wants TLS: write mqtts://, or the port without TLS"
    if heard[0] != 0x20:
        return f"what answers there does not speak MQTT (it says {heard[:20]!r})"
    if len(heard) >= 4 and heard[3] in UNSUPPORTED:
        return VERSION.format(*(("5", "3.1.1") if version == 5 else ("3.1.1", "5")))
    return None
