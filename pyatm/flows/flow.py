"""What a flow is.

docs/flows.md writes a fifth one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from uuid import UUID

from pyatm.engine import CommandPlan, EndAction, Entity, Finish
from pyatm.flows.hosts import Hosts
from pyatm.flows.inventory import Inventory, Vm


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may say about a run.

    Attributes:
        memory: save the VM's memory too, with a snapshot.
    """

    memory: bool = False


class Ending(ABC):
    """What happens at the end of one kind of command.

    Objects have no state: what an endAction needs is in the plan.

    Attributes:
        action_type: of the root command.
    """

    action_type: ClassVar[str]

    async def call_hosts(self, end_action: EndAction, hosts: Hosts) -> Any:
        """Remote calls of the endAction, outside any transaction, at least once."""
        del end_action, hosts

    @abstractmethod
    async def succeed(self, inventory: Inventory, end_action: EndAction, told: Any) -> Finish:
        """Every task was executed. `told` is what `call_hosts` returned."""

    @abstractmethod
    async def fail(self, inventory: Inventory, end_action: EndAction) -> Finish:
        """Compensate: bring the inventory to what is on the storage.

        Called only when VDSM does not work on any entity of `touched` any more.
        """

    def touched(self, end_action: EndAction) -> Iterable[Entity]:
        """The entities that compensation changes: by default the VM and the disks of the plan."""
        yield Entity("VM", vm_id(end_action))
        for disk_id in ids(end_action.parameters, "disk_ids"):
            yield Entity("Disk", disk_id)


class Flow(Ending):
    """One kind of command on a VM.

    Attributes:
        name: on the command line.
        illegal_too: it may work on a VM with ILLEGAL disks.
    """

    name: ClassVar[str]
    illegal_too: ClassVar[bool] = False

    @abstractmethod
    async def plan(self, inventory: Inventory, vm: Vm, options: Options) -> CommandPlan:
        """Mark the inventory as being worked on and say what VDSM has to do.

        Runs in the transaction of `plan_command`.
        """


def vm_id(end_action: EndAction) -> UUID:
    """The VM that the command was planned for."""
    return UUID(str(end_action.parameters["vm_id"]))


def ids(parameters: Mapping[str, Any], key: str) -> list[UUID]:
    """A list of ids in a command's parameters."""
    return [UUID(text) for text in cast("list[str]", parameters.get(key, []))]
