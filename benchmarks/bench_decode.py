"""What decoding a Modbus scan costs: the words of 60 float32 and 4 u64 registers to values.

    python -m benchmarks.bench_decode

prints one JSON object: microseconds per call and values per second for one scan and for sixty, the
same value by value with struct, and the machine. Minimum of repeats; the plan is made outside.
"""

import json
import platform
import struct
import timeit
from fractions import Fraction

import numpy as np

from edge_agent.drivers.modbus_address import Address, Table
from edge_agent.drivers.modbus_plan import ReadPlan
from edge_agent.drivers.modbus_register import WORDS, Register

REPEATS = 7


def columns() -> list[Register]:
    found, address = [], 0
    for kind in ("f32",) * 60 + ("u64",) * 4:
        at = Address(Table.HOLDING_REGISTERS, address)
        ratio = Fraction("0.01") if kind == "u64" else Fraction(1)
        found.append(Register(at, kind, "CDAB", ratio, low=-1e9, high=1e12))
        address += WORDS[kind]
    return found


def one_by_one(registers: list[Register], rows: list[list[int]]) -> None:
    for row in rows:
        for register in registers:
            words = row[register.first : register.last + 1]
            wire = struct.pack(f">{len(words)}H", *reversed(words))
            raw = struct.unpack(">f" if register.type == "f32" else ">Q", wire)[0]
            value = raw * register.ratio.numerator / register.ratio.denominator
            _ = 0 if register.low <= value <= register.high else 65


def microseconds(run: str, names: dict[str, object]) -> float:
    timer = timeit.Timer(run, globals=names)
    loops, _ = timer.autorange()
    return min(timer.repeat(REPEATS, loops)) / loops * 1e6


def main() -> None:
    registers = columns()
    plan = ReadPlan.build(registers)
    floats = np.random.default_rng(1).uniform(0, 500, (60, 60)).astype(">f4")
    words = np.zeros((60, plan.words), np.uint16)
    words[:, :120] = floats.view(">u2").reshape(60, 60, 2)[:, :, ::-1].reshape(60, 120)
    words[:, 120::4] = 12345
    result: dict[str, object] = {
        "bench": "decode", "python": platform.python_version(), "numpy": np.__version__,
        "machine": platform.machine(), "requests": [str(r) for r in plan.requests],
    }  # fmt: skip
    for scans in (1, 60):
        took = microseconds("plan.decode(words)", {"plan": plan, "words": words[:scans]})
        result[f"us_{scans}_scans"] = round(took, 1)
        result[f"values_per_s_{scans}_scans"] = round(scans * len(registers) / took * 1e6)
    slow = microseconds("f(r, w)", {"f": one_by_one, "r": registers, "w": words.tolist()})
    result["values_per_s_one_by_one"] = round(60 * len(registers) / slow * 1e6)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
