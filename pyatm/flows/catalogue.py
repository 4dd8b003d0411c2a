"""The flows that exist, by the name on the command line."""

from typing import Final

from pyatm.flows.create_snapshot import CreateSnapshot
from pyatm.flows.create_template import CreateTemplate
from pyatm.flows.flow import Ending, Flow
from pyatm.flows.hibernate_vm import HibernateVm
from pyatm.flows.remove_vm import RemoveVm
from pyatm.flows.storage_domain import DeactivateDomain

FLOWS: Final[dict[str, Flow]] = {
    flow.name: flow for flow in (RemoveVm(), HibernateVm(), CreateTemplate(), CreateSnapshot())
}
ENDINGS: Final[tuple[Ending, ...]] = (*FLOWS.values(), DeactivateDomain())
BY_ACTION: Final[dict[str, Ending]] = {ending.action_type: ending for ending in ENDINGS}
