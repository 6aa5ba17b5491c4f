"""The registry of drivers: the scheme of ``connect`` chooses among these config classes."""

from edge_agent.drivers.base import DeviceConfig
from edge_agent.drivers.cjt188 import Cjt188Device
from edge_agent.drivers.dlt645 import Dlt645Device
from edge_agent.drivers.modbus import ModbusDevice
from edge_agent.drivers.opcua import OpcUaDevice
from edge_agent.drivers.replay import ReplayDevice

DRIVERS: tuple[type[DeviceConfig], ...] = (
    ModbusDevice,
    OpcUaDevice,
    Dlt645Device,
    Cjt188Device,
    ReplayDevice,
)
