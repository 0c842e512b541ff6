"""What can be wrong in a site file although each entry is right by itself: one function per check, all of them run.

Invariant: a check sees the valid pieces alone (`draft.py`), says nothing of a piece that another check has told of, and
takes no longer than sorting what it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ductwork.errors import Problem
from ductwork.site.check_attachments import ATTACHMENT_CHECKS
from ductwork.site.check_bridges import BRIDGE_CHECKS
from ductwork.site.check_labels import LABEL_CHECKS
from ductwork.site.check_networks import NETWORK_CHECKS
from ductwork.site.check_nics import NIC_CHECKS
from ductwork.site.check_ports import PORT_CHECKS
from ductwork.site.check_routers import ROUTER_CHECKS
from ductwork.site.draft import Draft

CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    *NETWORK_CHECKS,
    *BRIDGE_CHECKS,
    *NIC_CHECKS,
    *ATTACHMENT_CHECKS,
    *LABEL_CHECKS,
    *ROUTER_CHECKS,
    *PORT_CHECKS,
)


def find_problems(draft: Draft) -> list[Problem]:
    """Every mistake, in the order of the checks; whoever knows the positions sorts them."""
    return [problem for check in CHECKS for problem in check(draft)]
