"""The columns of the tag table, and what is written in a cell of each; pure.

A cell that is empty says nothing: the template's value holds, or the usual one. ``-`` takes away
what a template has. Headings and common values may be Chinese, types may have the names that PLC
programs and other gateways give them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import NamedTuple
from unicodedata import normalize

from edge_agent.drivers.base import TagConfig
from edge_agent.tools.pasted import key, length, number, scalar
from edge_agent.units import Duration

NOTHING = "-"


class Column(NamedTuple):
    """A column: its name, its Chinese heading, other headings it may have, and what it holds."""

    name: str
    chinese: str
    others: tuple[str, ...]
    holds: str
    zh: str


COLUMNS = (
    Column("device", "设备", ("设备名", "设备名称", "仪表", "equipment", "meter"),
           "id of the device: a-z, 0-9, -; empty: as in the row above", "设备编号，空则同上一行"),
    Column("tag", "点名", ("点位", "测点", "标签", "变量", "变量名", "name", "point", "signal"),
           "name of the tag: a-z, 0-9, _", "测点名"),
    Column("at", "地址", ("寄存器地址", "寄存器", "节点", "address", "register", "node", "nodeid"),
           "40001, hr:0, ir:0x10, hr:5.3; nsu=…;s=…; 00010000", "寄存器地址或节点"),
    Column("type", "类型", ("数据类型", "datatype", "data type", "format"),
           "bool u16 i16 u32 i32 u64 i64 f32 f64 bcd16 bcd32 m10k32 text", "数据类型"),
    Column("order", "字节序", ("字序", "byte order", "byteorder", "endian"),
           "ABCD, CDAB, BADC or DCBA", "字节顺序"),
    Column("scale", "系数", ("倍率", "比例", "比例系数", "factor", "multiplier", "gain"),
           "value = raw * scale + offset", "值=原始值×系数+偏移"),
    Column("offset", "偏移", ("偏移量", "bias"), "see scale", "偏移"),
    Column("unit", "单位", ("工程单位", "units"), "kWh, kW, V, A, °C, t/h, mg/m3 …", "单位"),
    Column("kind", "种类", ("性质", "点类型", "信号类型"),
           "gauge, counter, state or text", "瞬时量、累计量、状态量或文本"),
    Column("modulus", "满量程", ("翻转值", "回零值", "rollover"),
           "raw number at which a counter begins again at 0", "计数器回零的原始值"),
    Column("invalid", "无效值", ("无效", "sentinel"),
           "raw numbers that mean no value: 65535, 0x8000", "表示无数据的原始值"),
    Column("range", "量程", ("范围", "上下限", "limits"),
           "0..2000: outside is marked", "超出则标记"),
    Column("states", "状态表", ("状态", "枚举", "enum"), "0=stop; 1=run", "状态的含义"),
    Column("class", "快慢", ("采集级别", "采集类别"), "fast or slow", "快或慢"),
    Column("poll", "周期", ("采集周期", "采样周期", "interval", "period", "cycle"),
           "own period of this tag: 5s, 500ms", "单独的采集周期"),
    Column("deadband", "死区", (), "smallest change that sinks are sent", "上传死区"),
    Column("mode", "方式", ("采集方式",), "poll or subscribe", "轮询或订阅"),
    Column("length", "长度", ("字符数", "characters"), "characters of a text", "文本字符数"),
    Column("scale_from", "指数点", ("指数", "exponent"),
           "tag that holds the decimal exponent", "存放十的指数的点名"),
    Column("ratio", "变比", ("互感器变比",), "ct, pt, ct*pt: ratios that are applied", "所用变比"),
    Column("use", "启用", ("使用", "采集", "enabled", "enable"),
           "no: this tag is not read", "否则不采集"),
    Column("origin", "来源", (), "template, changed, own: told by export", "导出时的说明"),
    Column("template", "模板", ("仪表模板", "型号", "model"), "acrel/adl3000", "仪表模板"),
    Column("ct", "电流变比", ("电流互感器变比",),
           "ratio of the device's current transformers: 600/5 A is 120", "电流互感器变比"),
    Column("pt", "电压变比", ("电压互感器变比", "vt"),
           "ratio of its voltage transformers: 10000/100 V is 100", "电压互感器变比"),
    Column("connect", "连接", ("连接地址", "通道", "链路", "url", "endpoint"),
           "modbus+tcp://192.168.1.20:502?unit=1", "设备的连接"),
)  # fmt: skip
DEVICE_KEYS = ("connect", "template", "ct", "pt")
TAG_KEYS = tuple(key(f.name) for f in fields(TagConfig))
_NULLABLE = {key(f.name) for f in fields(TagConfig) if f.default is None}


def _heading(written: str) -> str:
    """Return a heading without what stands in brackets behind it, in small letters."""
    plain = re.sub(r"[（(\[].*", "", normalize("NFKC", written), flags=re.DOTALL)
    return plain.strip(" \t\r\n*:").lower()


_KNOWN = {_heading(h): c for c in COLUMNS for h in (c.name, c.chinese, *c.others)}
_TYPES = {
    "word": "u16", "uint": "u16", "uint16": "u16", "ushort": "u16", "int": "i16", "int16": "i16",
    "short": "i16", "dword": "u32", "udint": "u32", "uint32": "u32", "dint": "i32", "int32": "i32",
    "long": "i32", "uint64": "u64", "ulint": "u64", "int64": "i64", "lint": "i64", "float": "f32",
    "float32": "f32", "real": "f32", "single": "f32", "double": "f64", "float64": "f64",
    "lreal": "f64", "bit": "bool", "boolean": "bool", "string": "text", "bcd": "bcd16",
    "浮点": "f32", "单精度": "f32", "双精度": "f64", "位": "bool", "字符串": "text",
}  # fmt: skip
_VALUES: Mapping[str, Mapping[str, str]] = {
    "type": _TYPES,
    "kind": {
        "瞬时量": "gauge", "瞬时": "gauge", "模拟量": "gauge", "累计量": "counter",
        "累计": "counter", "电度": "counter", "状态量": "state", "状态": "state",
        "开关量": "state", "文本": "text",
    },
    "class": {"快": "fast", "慢": "slow"},
    "mode": {"轮询": "poll", "订阅": "subscribe"},
}  # fmt: skip
YES = {"", "yes", "y", "true", "1", "是", "√", "启用", "on"}
NO = {"no", "n", "false", "0", "否", "×", "x", "停用", "off"}


def column_of(heading: str) -> Column | None:
    """Return the column that a heading names; what stands in brackets behind it does not count."""
    return _KNOWN.get(_heading(heading))


def near(heading: str) -> str:
    """Return `` (did you mean …?)`` for a heading that is none."""
    found = get_close_matches(heading.strip().lower(), _KNOWN, n=1, cutoff=0.7)
    names = ", ".join(c.name for c in COLUMNS[:8])
    return f' (did you mean "{found[0]}"?)' if found else f" (there is {names} …)"


# ---- writing ---------------------------------------------------------------------------------


def cell(column: str, value: object) -> str:
    """Return what stands in the cell for a value."""
    if value is None or value in ((), {}):
        return NOTHING
    if isinstance(value, Mapping):
        return _states_cell(value)
    if isinstance(value, tuple):
        return "..".join(map(number, value)) if column == "range" else ", ".join(map(str, value))
    if isinstance(value, float):
        return length(value) if isinstance(value, Duration) else number(value)
    return str(value)


def _states_cell(states: Mapping[int, str]) -> str:
    """Return ``0=stop; 1=run``, or YAML where a text has signs of its own."""
    if any(re.search(r"[;；=＝:：,，{\n]|^\s|\s$|^$", text) for text in states.values()):
        return scalar(states)
    return "; ".join(f"{n}={text}" for n, text in states.items())


def row_of(tag: TagConfig, template: TagConfig | None) -> dict[str, str]:
    """Return the cells of a tag's keys; empty where template and usual value say the same."""
    cells = {}
    for f in fields(TagConfig):
        usual = f.default if f.default is not MISSING else _made(f.default_factory)
        value = getattr(tag, f.name)
        before = usual if template is None else getattr(template, f.name)
        says_nothing = value == usual and before == usual
        cells[key(f.name)] = "" if says_nothing else cell(key(f.name), value)
    return cells


def _made(factory: object) -> object:
    return factory() if callable(factory) else factory


# ---- reading ---------------------------------------------------------------------------------


def value_of(column: str, text: str) -> object:
    """Return what a cell says, as the configuration has it; ``ValueError`` says what is right.

    What is not understood here is handed on as text: the configuration says what it should be.
    """
    plain = text.strip()
    if column in {"connect", "template"}:
        return plain
    if plain in {NOTHING, "—", "无", "none", "null"} and column in (
        _NULLABLE | {"invalid", "states"}
    ):
        return {"invalid": [], "states": {}}.get(column)
    if column == "states":
        return _states(plain)  # its texts are kept to the letter
    if column in _READERS:
        return _READERS[column](normalize("NFKC", plain))
    if column in _VALUES:
        word = normalize("NFKC", plain).lower()
        return _VALUES[column].get(word, word)
    return plain.upper() if column == "order" else plain


def is_used(text: str) -> bool:
    """Return whether a tag is to be read; ``ValueError`` if the cell says neither."""
    word = normalize("NFKC", text).strip().lower()
    if word in YES or word in NO:
        return word in YES
    raise ValueError(f'"{text}" is neither yes nor no (是, 否)')


def _number(text: str) -> object:
    try:
        return float(text.replace("_", "?"))  # Python alone reads 1_000
    except ValueError:
        return text


def _whole(text: str) -> object:
    number = _number(text)
    return int(number) if isinstance(number, float) and number.is_integer() else text


def _invalid(text: str) -> object:
    found = []
    for part in re.split(r"[\s,;、]+", text.strip(" []")):
        if not re.fullmatch(r"-?(\d+|0[xX][0-9a-fA-F]+)", part):
            raise ValueError(f'"{text}": write whole numbers: 65535, 0x8000')
        found.append(int(part, 0) if "x" in part.lower() else int(part))
    return found


_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"\[?\s*({_NUMBER})\s*(?:\.\.+|…|~|至|到|,|;|-)\s*({_NUMBER})\s*\]?")


def _range(text: str) -> object:
    # a number may end in a dot, so 0..5 is looked at without it first
    for candidate in (text.replace("..", " .. "), text):
        match = _RANGE.fullmatch(candidate)
        if match:
            return [float(match[1]), float(match[2])]
    raise ValueError(f'"{text}" is no range (write 0..2000)')


def _states(text: str) -> object:
    if text.startswith("{"):
        from edge_agent.config.tree import parse, plain

        try:
            held = plain(parse(f"states: {text}", "cell", []))
        except ValueError:
            held = None
        states = held.get("states") if isinstance(held, dict) else None
        if isinstance(states, dict):
            return states
    found: dict[object, str] = {}
    for part in filter(None, re.split(r"[;；\n]|[,，](?=\s*\d+\s*[=＝:：])", text)):
        match = re.fullmatch(r"\s*(-?\d+)\s*[=＝:：]\s*(.+?)\s*", part)
        if match is None:
            raise ValueError(f'"{text}" are no states (write 0=stop; 1=run)')
        found[int(match[1])] = match[2]
    return found


_READERS: Mapping[str, Callable[[str], object]] = {
    "scale": _number, "offset": _number, "modulus": _number, "deadband": _number, "length": _whole,
    "ct": _number, "pt": _number,
    "invalid": _invalid, "range": _range,
}  # fmt: skip
