"""Removes a VM with its disks: an engine in Python.

    python remove_vm.py VM_ID VDSM_HOST:PORT

`PYATM_DSN` names the database. See docs/engine-guide.md.
"""

import asyncio
import json
import os
import sys
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from pyatm.engine import (
    Announcement,
    CommandPlan,
    EndAction,
    EndActionRunner,
    Engine,
    Entity,
    Finish,
    PlannedTask,
    Submission,
    TaskPlan,
)
from pyatm.vdsm import Address, Sending, VdsmClient

Connection = AsyncConnection[Any]
POOL = UUID("5849b030-626e-47cb-ad90-3ce782d831b3")
DOMAIN = UUID("50000000-626e-47cb-ad90-3ce782d831b3")


async def plan(
    engine: Engine, vm_id: UUID
) -> tuple[CommandPlan, tuple[PlannedTask, ...], Announcement[Any]]:
    """Validate, lock the VM's row and plan, in one transaction."""
    async with engine.transaction() as transaction:
        db = transaction.connection
        found = await db.execute(
            "SELECT disk_id FROM my_engine.disk WHERE vm_id = %s ORDER BY disk_id FOR UPDATE",
            [vm_id],
        )
        disk_ids = [row[0] for row in await found.fetchall()]
        command = CommandPlan(
            "RemoveVm",
            {"vm_id": str(vm_id)},
            (Entity("VM", vm_id, "exclusive"),),
            children=tuple(
                CommandPlan(
                    "RemoveImage",
                    entities=(Entity("Disk", disk_id, "exclusive"), Entity("Storage", DOMAIN)),
                    # The first task is announced by the commit of this transaction.
                    tasks=(
                        TaskPlan(
                            "deleteImage", POOL, {"disk_id": str(disk_id)}, submit=number == 0
                        ),
                    ),
                )
                for number, disk_id in enumerate(disk_ids)
            ),
        )
        for holder in await engine.blockers(command.all_entities(), connection=db):
            raise SystemExit(f"cannot remove the VM: {holder}")
        await db.execute("UPDATE my_engine.vm SET state = 'LOCKED' WHERE vm_id = %s", [vm_id])
        tasks = await engine.plan_command(command, connection=db)
    return command, tasks, transaction.announcement


class RemoveVm:
    """The command's last step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def prepare(self, end_action: EndAction) -> None:
        """Remote calls would be made here: outside the transaction, at least once."""

    async def apply(self, connection: Connection, end_action: EndAction, prepared: None) -> Finish:
        """In the transaction of `finish_end_action`: exactly once."""
        for task in end_action.tasks:
            disk_id = UUID(task.parameters["disk_id"])
            if not await self._engine.can_compensate("Disk", disk_id, connection=connection):
                return Finish("retry", message=f"VDSM may still work on disk {disk_id}")
        await connection.execute(
            "SELECT my_engine.after_removal(%s, %s, %s)",
            [
                end_action.parameters["vm_id"],
                end_action.outcome,
                json.dumps([[t.parameters["disk_id"], t.outcome] for t in end_action.tasks]),
            ],
        )
        return Finish()


async def main(vm_id: UUID, address: Address) -> None:
    dsn = os.environ["PYATM_DSN"]
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        dsn, kwargs={"autocommit": True}, open=False
    )
    stop = asyncio.Event()

    async def observe(event: str, end_action: EndAction, detail: str) -> None:
        print(f"{end_action.action_type} {end_action.outcome}: endAction {event}, {detail}")
        if event == "finished" and detail == "ended":
            stop.set()

    async with pool, VdsmClient(address) as vdsm:
        engine = await Engine.start(pool, "engine-in-python")
        command, tasks, announcement = await plan(engine, vm_id)
        disk_of = {t.task_id: str(t.parameters["disk_id"]) for t in command.all_tasks()}

        async def send(task: PlannedTask, sending: Sending) -> str:
            return await vdsm.image.delete(
                disk_of[task.task_id], pool_id=str(POOL), domain_id=str(DOMAIN), sending=sending
            )

        submission = Submission(engine, send)
        print(f"sent: {', '.join(await submission.run(tasks, announcement))}")
        await EndActionRunner(engine, RemoveVm(engine), listen_dsn=dsn, observe=observe).run(stop)
        await submission.close()


if __name__ == "__main__":
    host, _, port = sys.argv[2].rpartition(":")
    asyncio.run(main(UUID(sys.argv[1]), Address(host, int(port))))
