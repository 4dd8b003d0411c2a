"""The flows that exist, by the name on the command line."""

from typing import Final

from pyatm.flows.create_snapshot import CreateSnapshot
from pyatm.flows.create_template import CreateTemplate
from pyatm.flows.flow import Flow
from pyatm.flows.hibernate_vm import HibernateVm
from pyatm.flows.remove_vm import RemoveVm

FLOWS: Final[dict[str, Flow]] = {
    flow.name: flow for flow in (RemoveVm(), HibernateVm(), CreateTemplate(), CreateSnapshot())
}
BY_ACTION: Final[dict[str, Flow]] = {flow.action_type: flow for flow in FLOWS.values()}
