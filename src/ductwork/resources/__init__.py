"""What the kernel holds, one file per kind. Nothing in here touches anything: resources are values."""

from ductwork.resources.address import Address
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
from ductwork.resources.link import Link, VethSpec, VxlanSpec
from ductwork.resources.neighbour import Neighbour
from ductwork.resources.nft import NftElement, NftTable
from ductwork.resources.operation import Backend, Create, Delete, Operation, Outcome, Update, key_of
from ductwork.resources.port import Port
from ductwork.resources.route import MAIN_TABLE, PARKED_METRIC, Route
from ductwork.resources.sysctl import Sysctl

KINDS = (NftTable, IptablesRule, NftElement, Link, Port, Sysctl, Address, Route, Neighbour, FdbEntry)
"""Every kind, in the order of creation: what a link's packets will meet is there before the link."""

__all__ = [
    "FLOOD_MAC",
    "HOST",
    "KINDS",
    "MAIN_TABLE",
    "PARKED_METRIC",
    "PROTOCOL",
    "Address",
    "Argv",
    "Backend",
    "Create",
    "Delete",
    "FdbEntry",
    "IPAddress",
    "IPInterface",
    "IPNetwork",
    "IptablesRule",
    "Key",
    "Link",
    "Neighbour",
    "NftElement",
    "NftTable",
    "Operation",
    "Outcome",
    "Owner",
    "Place",
    "Port",
    "Resource",
    "Route",
    "State",
    "Sysctl",
    "Update",
    "VethSpec",
    "VxlanSpec",
    "key_of",
    "state",
]
