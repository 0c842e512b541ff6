"""A question to the wire: has anybody this address?"""

from __future__ import annotations

from dataclasses import dataclass

from ductwork.resources.base import IPAddress


@dataclass(frozen=True, slots=True)
class Probe:
    """Is `address` in use on the wire behind `link`, a NIC, a bridge or a parent in the host's namespace?

    `vlan`: frames carry this tag, and the sub-interface need not exist; 0: untagged. `mac`: whose answer is no conflict, the
    attachment's own; empty: everybody's is one.
    """

    link: str
    address: IPAddress
    vlan: int = 0
    mac: str = ""
