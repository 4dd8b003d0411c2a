"""Validation (canDoAction) and planning of flows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from pyatm.engine import CommandPlan, Engine, Entity, EntityBusy
from pyatm.engine.client import Connection, Transaction
from pyatm.engine.model import PlannedTask
from pyatm.flows.flow import Flow, Options
from pyatm.flows.inventory import Inventory


@dataclass(frozen=True, slots=True)
class Planned:
    """A flow that has been planned."""

    command: CommandPlan
    tasks: tuple[PlannedTask, ...]
    transaction: Transaction


async def plan_flow(engine: Engine, flow: Flow, vm: UUID, options: Options) -> Planned:
    """Validate (canDoAction) and plan a flow on a VM; the first task is announced with it.

    Raises:
        EntityBusy: another command holds one of the entities; `holders` says which.
        NotInInventory, NotOk: the inventory does not allow it.
    """
    async with engine.transaction("plan_command") as transaction:
        connection = transaction.connection
        inventory = Inventory(connection)
        # Asked before the VM's state: a holder's name says more than LOCKED.
        await refuse_if_held(engine, connection, [Entity("VM", vm)])
        found = await inventory.vm(vm, illegal_too=flow.illegal_too)
        command = announce_first(await flow.plan(inventory, found, options))
        await refuse_if_held(engine, connection, command.all_entities())
        tasks = await engine.plan_command(command, connection=connection)
    return Planned(command, tasks, transaction)


async def refuse_if_held(
    engine: Engine, connection: Connection, entities: Iterable[Entity]
) -> None:
    """Validation before the work of planning; admission itself is `plan_command`'s.

    Raises:
        EntityBusy: with every holder in the message.
    """
    holders = await engine.blockers(entities, connection=connection)
    if holders:
        refusal = EntityBusy("; ".join(str(holder) for holder in holders), "AT301")
        refusal.holders = holders
        raise refusal


def announce_first(command: CommandPlan) -> CommandPlan:
    """The same plan with its first task announced by the planning transaction itself."""
    if command.tasks:
        return replace(command, tasks=(replace(command.tasks[0], submit=True), *command.tasks[1:]))
    if command.children:
        first, *others = command.children
        return replace(command, children=(announce_first(first), *others))
    return command
