"""A database in the state that operators are called for, made through functions of schema atm."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from tests.cli.programs import Program
from tests.sql.world import FINISHED, World, status

if TYPE_CHECKING:
    from tests.conftest import Connection

LOAD = Path(__file__).with_name("load.sql")


@dataclass(frozen=True, slots=True)
class Mess:
    """What lies about in the database.

    Attributes:
        running: a RemoveVm with three tasks; VDSM has spoken of one of them.
        doubtful: a command whose task is in doubt.
        orphan: a VDSM task that may be the answer that got lost.
        end_failed: a CreateSnapshot whose endAction has given up.
        over: a command in the history.
        vm: held by `running`.
    """

    running: uuid.UUID
    running_tasks: list[str]
    doubtful: uuid.UUID
    doubtful_task: str
    orphan: str
    end_failed: uuid.UUID
    over: uuid.UUID
    vm: str
    pool_id: str


def as_role(dsn: str, role: str) -> str:
    """The same database for a user who has only this role."""
    return f"{dsn} options='-c role={role}'"


def program_as(dsn: str, role: str) -> Program:
    """The program as that user runs it."""
    return Program({"PYATM_DSN": as_role(dsn, role)})


def make_mess(db: Connection, gave_up: str = "disk is \x1b[31mred") -> Mess:
    """The mess, in one pool.

    Args:
        gave_up: why the endAction of the CreateSnapshot gave up; a terminal would obey the usual.
    """
    world = World(db).start()
    over, _, vdsm = world.planned_and_bound(1)
    _finish(world, vdsm)
    (claim,) = world.claim()
    world.finish(claim["token"])
    world.settle()
    end_failed, _, vdsm = world.planned_and_bound(1, action_type="CreateSnapshot")
    _finish(world, vdsm)
    (claim,) = world.claim()
    world.finish(claim["token"], "give_up", message=gave_up)
    vm = str(uuid.uuid4())
    running, tasks, vdsm = world.planned_and_bound(
        3, entities=[{"type": "VM", "id": vm, "access": "exclusive"}]
    )
    world.vdsm[vdsm[0]] = status(message="job \x1b]0;owned\x07 1 of 1")
    doubt = world.plan(world.document(1, submit=True))
    orphan = str(uuid.uuid4())
    world.vdsm[orphan] = status()
    world.poll()
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, doubt[0]["task_id"])
    return Mess(
        running=running,
        running_tasks=[str(t["task_id"]) for t in tasks],
        doubtful=doubt[0]["root_command_id"],
        doubtful_task=str(doubt[0]["task_id"]),
        orphan=orphan,
        end_failed=end_failed,
        over=over,
        vm=vm,
        pool_id=str(world.pool_id),
    )


def _finish(world: World, vdsm: list[str]) -> None:
    for vdsm_id in vdsm:
        world.vdsm[vdsm_id] = FINISHED
    world.poll()


def add_bad_pools(db: Connection) -> None:
    """A pool whose SPM hangs, and one whose poller has gone without a word.

    The last to be made: another poller would take the deserted pool.
    """
    for name, poller, lease in (("hung", "poller2", "1 hour"), ("deserted", "poller3", "1 ms")):
        world = World(db, engine_name=f"engine-{name}")
        hosts = Jsonb([{"address": f"{name}.example.com"}])
        world.one("select atm.set_pool(%s, %s, %s)", world.pool_id, name, hosts)
        rows = world.rows("select * from atm.acquire_pools(%s, 1, %s::interval)", poller, lease)
        world.token = rows[0]["token"]
        world.epoch = world.start_engine()
        world.planned_and_bound(2, action_type="CreateTemplate")
        if name == "hung":
            # The host takes the connection and never answers: each listing fails.
            for _ in range(3):
                world.poll(None)


def add_load(db: Connection, tasks: int, tasks_per_command: int = 4, engine: str = "load") -> None:
    """A pool full of running tasks of RemoveVm commands, each on a disk of its own."""
    world = World(db, engine_name=engine)
    hosts = Jsonb([{"address": "busy.example.com"}])
    world.one("select atm.set_pool(%s, 'busy', %s)", world.pool_id, hosts)
    rows = world.rows("select * from atm.acquire_pools('poller4', 1, '1 hour')")
    world.token = rows[0]["token"]
    world.epoch = world.start_engine()
    db.execute(
        LOAD.read_bytes(),
        {
            "epoch": world.epoch,
            "pool": world.pool_id,
            "tasks_per_command": tasks_per_command,
            "commands": tasks // tasks_per_command,
        },
    )
    db.execute(
        "select atm.bind_task(%s, task_id, gen_random_uuid()) from atm.tasks"
        " where state = 'submitting' and storage_pool_id = %s",
        [world.epoch, world.pool_id],
    )
    listing = db.execute(
        "select jsonb_object_agg(vdsm_task_id, %s::jsonb) from atm.tasks"
        " where storage_pool_id = %s",
        [Jsonb(status()), world.pool_id],
    ).fetchone()
    assert listing is not None
    world.poll(listing[0])
