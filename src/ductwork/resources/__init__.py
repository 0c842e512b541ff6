"""What the kernel holds, one file per kind. Nothing in here touches anything: resources are values."""

from ductwork.resources.address import Address, AddressDetails
from ductwork.resources.base import (
    HOST,
    PROTOCOL,
    Argv,
    IPAddress,
    IPInterface,
    IPNetwork,
    Key,
    Owner,
    Place,
    Resource,
    State,
    state,
)
from ductwork.resources.fdb_entry import FLOOD_MAC, FdbEntry
from ductwork.resources.iptables_rule import IptablesRule
from ductwork.resources.link import (
    NATIVE_VLAN,
    BridgeSpec,
    IpvlanSpec,
    Link,
    MacvlanSpec,
    NicSpec,
    OvsSpec,
    VethSpec,
    VlanSpec,
    VxlanSpec,
)
from ductwork.resources.neighbour import Neighbour
from ductwork.resources.nft import NftElement, NftTable
from ductwork.resources.nic import NicFacts
from ductwork.resources.operation import Backend, Create, Delete, Operation, Outcome, Update, key_of
from ductwork.resources.ovs import OvsBridge, OvsPort
from ductwork.resources.ovs_guard import OvsDeaf, OvsGuard
from ductwork.resources.port import Port, PortVlans
from ductwork.resources.probe import Probe
from ductwork.resources.route import MAIN_TABLE, PARKED_METRIC, Route, RouteDetails
from ductwork.resources.shaper import Redirect, Shaper
from ductwork.resources.sysctl import Sysctl

KINDS = (
    NftTable,
    IptablesRule,
    NftElement,
    OvsBridge,
    Link,
    OvsPort,
    OvsGuard,
    Port,
    Shaper,
    Redirect,
    Sysctl,
    Address,
    Route,
    Neighbour,
    FdbEntry,
    OvsDeaf,
)
"""Every kind, in the order of creation: what a link's packets will meet is there before the link; the kernel goes deaf to a
NIC when that is in its switch."""

__all__ = [
    "FLOOD_MAC",
    "HOST",
    "KINDS",
    "MAIN_TABLE",
    "NATIVE_VLAN",
    "PARKED_METRIC",
    "PROTOCOL",
    "Address",
    "AddressDetails",
    "Argv",
    "Backend",
    "BridgeSpec",
    "Create",
    "Delete",
    "FdbEntry",
    "IPAddress",
    "IPInterface",
    "IPNetwork",
    "IptablesRule",
    "IpvlanSpec",
    "Key",
    "Link",
    "MacvlanSpec",
    "Neighbour",
    "NftElement",
    "NftTable",
    "NicFacts",
    "NicSpec",
    "Operation",
    "Outcome",
    "OvsBridge",
    "OvsDeaf",
    "OvsGuard",
    "OvsPort",
    "OvsSpec",
    "Owner",
    "Place",
    "Port",
    "PortVlans",
    "Probe",
    "Redirect",
    "Resource",
    "Route",
    "RouteDetails",
    "Shaper",
    "State",
    "Sysctl",
    "Update",
    "VethSpec",
    "VlanSpec",
    "VxlanSpec",
    "key_of",
    "state",
]
