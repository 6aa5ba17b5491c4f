"""Metrics: deterministic operators from blocks to blocks; ``METRICS`` is the registry of KPIs."""

from edge_agent.metrics.alarm import AlarmConfig
from edge_agent.metrics.balance import BalanceConfig
from edge_agent.metrics.base import MetricConfig
from edge_agent.metrics.baseline import BaselineConfig
from edge_agent.metrics.by_state import EnergyByStateConfig
from edge_agent.metrics.check import CheckConfig
from edge_agent.metrics.computed import ComputedConfig
from edge_agent.metrics.demand import DemandConfig
from edge_agent.metrics.emissions import EmissionsConfig
from edge_agent.metrics.energy import EnergyConfig
from edge_agent.metrics.oee import OeeConfig
from edge_agent.metrics.oee_line import OeeLineConfig
from edge_agent.metrics.product import ProductConfig
from edge_agent.metrics.tariff import TariffConfig
from edge_agent.metrics.water import WaterConfig

METRICS: tuple[type[MetricConfig], ...] = (
    EnergyConfig,
    OeeConfig,
    ComputedConfig,
    AlarmConfig,
    OeeLineConfig,
    EmissionsConfig,
    DemandConfig,
    BaselineConfig,
    TariffConfig,
    BalanceConfig,
    EnergyByStateConfig,
    WaterConfig,
    ProductConfig,
    CheckConfig,
)
