"""When the engine does not call VDSM, and that it calls it once only."""

import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from pyatm.engine import (
    Announcement,
    CommandPlan,
    Engine,
    Entity,
    EntityBusy,
    PlannedTask,
    StaleEpoch,
    Submission,
    TaskPlan,
)
from pyatm.engine.sync import SyncEngine
from pyatm.vdsm import Sending
from tests.conftest import AsyncConnect, Connection

POOL = uuid.UUID("5849b030-626e-47cb-ad90-3ce782d831b3")


class Sent:
    """Answers as VDSM would and remembers what it was sent."""

    def __init__(self) -> None:
        self.task_ids: list[uuid.UUID] = []

    async def __call__(self, task: PlannedTask, sending: Sending) -> str:
        assert sending.send_by is not None
        assert sending.send_by > time.monotonic()
        self.task_ids.append(task.task_id)
        return str(uuid.uuid4())


def plan(*entities: Entity) -> CommandPlan:
    tasks = (TaskPlan("deleteImage", POOL, submit=True), TaskPlan("deleteImage", POOL))
    return CommandPlan("RemoveVm", entities=entities, tasks=tasks)


async def started(aconnect: AsyncConnect) -> Engine:
    engine = await Engine.start(await aconnect(), "test")
    await engine.set_pool(POOL, "pool", [("localhost", 54321)])
    return engine


def states(db: Connection) -> list[Any]:
    return [row[0] for row in db.execute("select state from atm.tasks order by task_no")]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: Announcement(None, time.monotonic(), only_local=True),
        lambda: Announcement(None, time.monotonic() - 31),
    ],
    ids=["only_local", "too_late"],
)
async def test_vdsm_is_not_called_after_a_doubtful_or_old_announcement(
    aconnect: AsyncConnect, db: Connection, spoil: Callable[[], Announcement[None]]
) -> None:
    engine, sent = await started(aconnect), Sent()
    tasks = await engine.plan_command(plan())
    assert await Submission(engine, sent).run(tasks, spoil()) == ("doubted",)
    assert sent.task_ids == []
    assert states(db) == ["in_doubt", "done"]


async def test_each_task_is_sent_once_in_plan_order(aconnect: AsyncConnect, db: Connection) -> None:
    engine, sent = await started(aconnect), Sent()
    tasks = await engine.plan_command(plan())
    submission = Submission(engine, sent)
    announcement = Announcement(None, time.monotonic())
    assert await submission.run(tasks, announcement) == ("bound", "bound")
    assert sent.task_ids == [task.task_id for task in tasks]
    assert states(db) == ["running", "running"]


async def test_what_was_sent_is_never_sent_again_even_if_its_bind_did_not_come_about(
    aconnect: AsyncConnect, db: Connection
) -> None:
    async def interrupted(event: str, **facts: Any) -> None:
        if event == "answered":
            raise ConnectionError("between the answer and the bind")

    engine, sent = await started(aconnect), Sent()
    tasks = await engine.plan_command(plan())
    submission = Submission(engine, sent, observe=interrupted)
    with pytest.raises(ConnectionError):
        await submission.run(tasks, Announcement(None, time.monotonic()))
    assert states(db) == ["submitting", "planned"]
    assert await submission.run(tasks) == ("doubted",)
    assert sent.task_ids == [tasks[0].task_id]
    assert states(db) == ["in_doubt", "done"]


async def test_an_older_incarnation_is_told_that_it_is_stale(
    aconnect: AsyncConnect, db: Connection
) -> None:
    old = await started(aconnect)
    tasks = await old.plan_command(plan())
    SyncEngine.start(db, "test")
    with pytest.raises(StaleEpoch):
        await old.bind_task(tasks[0].task_id, uuid.uuid4())


def test_a_held_entity_names_its_holder(db: Connection) -> None:
    engine = SyncEngine.start(db, "test")
    engine.set_pool(POOL, "pool", [("localhost", 54321)])
    vm = Entity("VM", uuid.uuid4(), "exclusive")
    first = plan(vm)
    engine.plan_command(first)
    with pytest.raises(EntityBusy) as refused:
        engine.plan_command(plan(vm))
    assert [holder.root_command_id for holder in refused.value.holders] == [first.command_id]
    assert engine.blockers([vm]) == refused.value.holders
