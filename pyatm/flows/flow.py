"""What a flow is, and the endAction handler that serves all flows.

A fifth flow is one more class of `Flow` in a file of its own, listed in `catalogue.FLOWS`; its
tasks use the verbs of `vdsm_tasks.METHODS`, where a new verb is one more line.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar, Final, cast
from uuid import UUID

from pyatm.engine import CommandPlan, EndAction, EndedTask, Engine, Entity, EntityBusy, Finish
from pyatm.engine.client import Connection, Transaction
from pyatm.engine.model import PlannedTask
from pyatm.flows.hosts import Hosts
from pyatm.flows.inventory import Inventory, Vm

COMPENSATION_RETRY: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may say about a run.

    Attributes:
        memory: save the VM's memory too, with a snapshot.
    """

    memory: bool = False


class Flow(ABC):
    """One kind of command. Objects have no state: what an endAction needs is in the plan.

    Attributes:
        name: on the command line.
        action_type: of the root command.
    """

    name: ClassVar[str]
    action_type: ClassVar[str]

    @abstractmethod
    async def plan(self, inventory: Inventory, vm: Vm, options: Options) -> CommandPlan:
        """Mark the inventory as being worked on and say what VDSM has to do.

        Runs in the transaction of `plan_command`.
        """

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
        await _refuse_if_held(engine, connection, [Entity("VM", vm)])
        command = announce_first(await flow.plan(inventory, await inventory.vm(vm), options))
        await _refuse_if_held(engine, connection, command.all_entities())
        tasks = await engine.plan_command(command, connection=connection)
    return Planned(command, tasks, transaction)


async def _refuse_if_held(
    engine: Engine, connection: Connection, entities: Iterable[Entity]
) -> None:
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


class FlowHandler:
    """The endActions of all flows, for `EndActionRunner`.

    Args:
        flows: by action type.
        hosts: VDSM, for the remote calls of endActions.
    """

    def __init__(self, engine: Engine, flows: Mapping[str, Flow], hosts: Hosts) -> None:
        self._engine, self._flows, self._hosts = engine, flows, hosts

    async def prepare(self, end_action: EndAction) -> Any:
        """See `pyatm.engine.runner.Handler`."""
        if end_action.succeeded:
            return await self._flow(end_action).call_hosts(end_action, self._hosts)
        return None

    async def apply(self, connection: Connection, end_action: EndAction, prepared: Any) -> Finish:
        """See `pyatm.engine.runner.Handler`."""
        flow, inventory = self._flow(end_action), Inventory(connection)
        if end_action.succeeded:
            finish = await flow.succeed(inventory, end_action, prepared)
        else:
            for entity in flow.touched(end_action):
                possible = await self._engine.can_compensate(
                    entity.type, entity.id, connection=connection
                )
                if not possible:
                    text = f"VDSM may still work on {entity.type} {entity.id}"
                    return Finish("retry", COMPENSATION_RETRY, message=text)
            finish = await flow.fail(inventory, end_action)
        await inventory.note_effect(end_action.root_command_id, end_action.outcome)
        return finish

    def _flow(self, end_action: EndAction) -> Flow:
        flow = self._flows.get(end_action.action_type)
        if flow is None:
            raise LookupError(f"no flow has the action type {end_action.action_type!r}")
        return flow


def vm_id(end_action: EndAction) -> UUID:
    """The VM that the command was planned for."""
    return UUID(str(end_action.parameters["vm_id"]))


def ids(parameters: Mapping[str, Any], key: str) -> list[UUID]:
    """A list of ids in a command's parameters."""
    return [UUID(text) for text in cast("list[str]", parameters.get(key, []))]


def image_id(task: EndedTask) -> UUID:
    """The image that the task makes or removes: the destination of a copy."""
    return UUID(str(task.parameters.get("dstImgUUID") or task.parameters["imageID"]))


def leaves_nothing(task: EndedTask) -> bool:
    """Whether a creating task leaves nothing behind once VDSM has reverted what succeeded.

    False when its rollback failed, or nobody knows: then there may be half a volume.
    """
    if task.outcome in ("succeeded", "not_submitted"):
        return True
    if task.outcome == "failed":
        return task.vdsm_task_id is None or task.vdsm_result == "cleanSuccess"
    return False
