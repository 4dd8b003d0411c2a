"""Deactivating a storage domain: refused while anything runs on it, and nothing begins meanwhile.

Every flow holds the domains of its disks shared; this command wants the domain alone. It has no
VDSM tasks, so it is ready at once.
"""

from typing import Any
from uuid import UUID

from pyatm.engine import CommandPlan, EndAction, Engine, Entity, Finish
from pyatm.flows.flow import Ending
from pyatm.flows.inventory import Inventory
from pyatm.flows.planning import refuse_if_held


class DeactivateDomain(Ending):
    """Its endAction makes the domain Inactive."""

    action_type = "DeactivateStorageDomain"

    async def succeed(self, inventory: Inventory, end_action: EndAction, told: Any) -> Finish:
        """No flow may use the domain from now on."""
        del told
        await inventory.set_domain(_domain_id(end_action), "Inactive")
        return Finish()

    async def fail(self, inventory: Inventory, end_action: EndAction) -> Finish:
        """Nothing was done: somebody cancelled it."""
        del inventory, end_action
        return Finish(message="the domain stays as it is")

    def touched(self, end_action: EndAction) -> list[Entity]:
        """The domain."""
        return [Entity("Storage", _domain_id(end_action))]


async def plan_deactivation(engine: Engine, domain_id: UUID) -> UUID:
    """Validate and plan the deactivation of a storage domain; returns the command's id.

    Raises:
        EntityBusy: commands run on the domain; message and `holders` name them.
    """
    domain = Entity("Storage", domain_id, "exclusive")
    command = CommandPlan(
        DeactivateDomain.action_type, {"domain_id": str(domain_id)}, entities=(domain,)
    )
    async with engine.transaction("plan_command") as transaction:
        connection = transaction.connection
        await refuse_if_held(engine, connection, [domain])
        await engine.plan_command(command, connection=connection)
    return command.command_id


def _domain_id(end_action: EndAction) -> UUID:
    return UUID(str(end_action.parameters["domain_id"]))
