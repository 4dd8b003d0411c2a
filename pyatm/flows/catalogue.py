"""The flows that exist."""

from collections.abc import Iterable
from typing import Final

from pyatm.flows.create_snapshot import CreateSnapshot
from pyatm.flows.create_template import CreateTemplate
from pyatm.flows.flow import Ending, Flow
from pyatm.flows.hibernate_vm import HibernateVm
from pyatm.flows.remove_vm import RemoveVm
from pyatm.flows.storage_domain import DeactivateDomain

FLOWS: Final[tuple[Ending, ...]] = (
    RemoveVm(),
    HibernateVm(),
    CreateTemplate(),
    CreateSnapshot(),
    DeactivateDomain(),
)


def by_name(endings: Iterable[Ending]) -> dict[str, Flow]:
    """Those that can be run on a VM, by their names on the command line."""
    return {flow.name: flow for flow in endings if isinstance(flow, Flow)}
