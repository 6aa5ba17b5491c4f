"""Pure functions of electric power: power factor, apparent power, unbalance; vectorised."""

import numpy as np

from edge_agent.model import F64


def apparent(active: F64, reactive: F64) -> F64:
    """Return apparent power or energy, ``sqrt(P² + Q²)``, in the units of its parts' products.

    active, reactive  (n,) in kW and kvar, or in kWh and kvarh
    source            IEC 60050-131, 131-11-41
    """
    whole: F64 = np.hypot(active, reactive)
    return whole


def power_factor(active: F64, reactive: F64) -> F64:
    """Return ``cos φ = Wp / sqrt(Wp² + Wq²)``, a fraction; NaN where both are 0.

    active    (n,) energy (kWh) of a period, usually a month, or power
    reactive  (n,) kvarh; of a period forward + |reverse|, so it is never negative
    source    水电财字〔1983〕215号: the mean power factor of a month from its energies
    """
    whole = np.hypot(active, reactive)
    factor: F64 = np.divide(active, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return factor


def unbalance(phases: F64) -> F64:
    """Return the unbalance of three phases: the largest deviation from their mean.

    phases   float64 (3, n), voltages in V, or currents in A
    returns  float64 (n,), fraction of the mean; NaN where the mean is 0
    source   IEEE Std 112, phase voltage unbalance rate
    """
    mean = phases.mean(axis=0)
    worst = np.abs(phases - mean).max(axis=0)
    share: F64 = np.divide(worst, mean, out=np.full(mean.shape, np.nan), where=mean != 0)
    return share
