"""What is watched without being configured: each meter's counter against its power."""

from collections.abc import Collection, Mapping

from edge_agent.drivers.base import DeviceConfig, TagConfig
from edge_agent.metrics.alarm import AlarmConfig
from edge_agent.metrics.base import MetricConfig
from edge_agent.metrics.check import CheckConfig
from edge_agent.units import Unit

COUNTER, EXPORT, POWER = "active_energy_import", "active_energy_export", "active_power"


def standing(
    devices: Mapping[str, DeviceConfig], taken: Collection[str]
) -> dict[str, MetricConfig]:
    """Return a check for each device that counts energy and shows power, and an alarm on each.

    taken  names that have a meaning already: what would be called so is left out
    """
    found: dict[str, MetricConfig] = {}
    for name, device in devices.items():
        check, alarm = f"{name}-check", f"{name}-disagrees"
        if check in taken or not _is(device.tags.get(COUNTER), "counter", "kWh"):
            continue
        if not _is(device.tags.get(POWER), "gauge", "kW"):
            continue
        export = f"{name}.{EXPORT}" if _is(device.tags.get(EXPORT), "counter", "kWh") else None
        found[check] = CheckConfig(
            counter=f"{name}.{COUNTER}", export=export, power=f"{name}.{POWER}", windows=("1h",)
        )
        if alarm not in taken:
            found[alarm] = AlarmConfig(when=f"{check}.disagrees_1h > 0", priority="low")
    return found


def _is(tag: TagConfig | None, kind: str, unit: str) -> bool:
    if tag is None or tag.kind != kind:
        return False
    try:
        return Unit.parse(tag.unit).dimension == Unit.parse(unit).dimension
    except ValueError:
        return False  # told at the tag
