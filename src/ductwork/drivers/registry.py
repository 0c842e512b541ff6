"""Which drivers there are: a new one is its file, and its line here."""

from __future__ import annotations

from ductwork.drivers import Driver
from ductwork.drivers.bridge import BridgeDriver
from ductwork.drivers.ipvlan import IpvlanDriver
from ductwork.drivers.macvlan import MacvlanDriver
from ductwork.drivers.ovs import OvsDriver
from ductwork.drivers.phys import PhysDriver
from ductwork.drivers.vxlan import VxlanDriver

_ALL: tuple[Driver, ...] = (BridgeDriver(), OvsDriver(), MacvlanDriver(), IpvlanDriver(), VxlanDriver(), PhysDriver())

DRIVERS = {driver.name: driver for driver in _ALL}


def option_types() -> dict[str, type]:
    """Driver name → the frozen dataclass of its own keys in the site file."""
    return {name: driver.Options for name, driver in DRIVERS.items()}
