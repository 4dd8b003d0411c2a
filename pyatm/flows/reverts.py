"""Volumes that VDSM takes back after a failure: the inventory believes it when VDSM has said so.

An endAction that ends with `revert` leaves the disks of succeeded tasks LOCKED and notes them with
`take_back`. pyatm has VDSM revert the tasks, and a command is in `atm.history` only when that is
over and the tasks are cleared; `settle_reverted` then reads there what VDSM said last. Both are
transactions of the engine's own database: whatever is killed, a disk is settled exactly once.
"""

from collections.abc import Callable
from uuid import UUID

from pyatm.engine import EndAction, EndedTask
from pyatm.engine.client import Connection
from pyatm.flows.inventory import Afterwards, Inventory


def image_id(task: EndedTask) -> UUID:
    """The image that the task makes or removes: the destination of a copy."""
    return UUID(str(task.parameters.get("dstImgUUID") or task.parameters["imageID"]))


def left_nothing(task: EndedTask) -> bool:
    """Whether a creating task that did not succeed left nothing behind.

    False when its rollback failed, or nobody knows: then there may be half a volume.
    """
    if task.outcome == "not_submitted":
        return True
    if task.outcome == "failed":
        return task.vdsm_task_id is None or task.vdsm_result == "cleanSuccess"
    return False


async def take_back(
    inventory: Inventory, end_action: EndAction, afterwards: Callable[[UUID], Afterwards]
) -> bool:
    """Undo the creating tasks of a failed command; the endAction must end with `revert`.

    Args:
        afterwards: what becomes of an image's disk without the new volume.

    Returns:
        Whether something may be left on the storage (its disk is ILLEGAL then).
    """
    left = False
    for task in end_action.tasks:
        disk_id = image_id(task)
        if task.outcome == "succeeded":
            await inventory.await_revert(
                end_action.root_command_id, task.task_id, disk_id, afterwards(disk_id)
            )
        elif left_nothing(task):
            await _undone(inventory, disk_id, afterwards(disk_id))
        else:
            await inventory.set_disks([disk_id], "ILLEGAL")
            left = True
    return left


async def settle_reverted(connection: Connection) -> list[UUID]:
    """Bring disks to what VDSM said about its reverts; returns the commands that had some.

    Call it in a transaction, from time to time, while `reverting` is not 0.
    """
    cursor = await connection.execute(
        "SELECT r.task_id, r.root_command_id, r.disk_id, r.afterwards, d.owner_id,"
        " coalesce(t ->> 'vdsm_result', '') = 'cleanSuccess' AS clean"
        " FROM pyatm_inventory.reverting r"
        " JOIN pyatm_inventory.disk d USING (disk_id)"
        " JOIN atm.history h ON h.command_id = r.root_command_id"
        " CROSS JOIN LATERAL jsonb_array_elements(h.tasks) t"
        " WHERE t ->> 'task_id' = r.task_id::text"
        " FOR UPDATE OF r SKIP LOCKED"
    )
    inventory = Inventory(connection)
    settled: dict[UUID, None] = {}
    for task_id, root_command_id, disk_id, afterwards, owner_id, clean in await cursor.fetchall():
        if clean:
            await _undone(inventory, disk_id, afterwards)
        else:
            await inventory.set_disks([disk_id], "ILLEGAL")
        await inventory.end_revert(task_id)
        await inventory.end_template_without_copies(owner_id)
        settled[root_command_id] = None
    return list(settled)


async def reverting(connection: Connection, engine_name: str) -> int:
    """How many volumes of this engine's commands VDSM has still to take back."""
    cursor = await connection.execute(
        "SELECT count(*) FROM pyatm_inventory.reverting WHERE engine_name = %s", [engine_name]
    )
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])


async def _undone(inventory: Inventory, disk_id: UUID, afterwards: Afterwards) -> None:
    if afterwards == "remove":
        await inventory.remove_disks([disk_id])
    else:
        await inventory.set_disks([disk_id], "OK")
