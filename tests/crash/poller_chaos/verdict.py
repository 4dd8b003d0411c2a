"""What a run has to answer for."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from pyatm.simulator.execution_log import ExecutionEvent, read_events
from tests.crash.checker import check
from tests.crash.evidence import Ended, EndedTask, Evidence, Left
from tests.crash.execution import VdsmTask, lives
from tests.crash.poller_chaos.load import Load
from tests.crash.poller_chaos.world import World

NEVER_LOGGED: Final = ("poll failed", "pool loop failed", "answers refused by the database")
GROWTH_KIB: Final = 12 * 1024


async def verdict(world: World, load: Load, left: Left, memory: Sequence[int]) -> list[str]:
    """Everything that is wrong, in words; empty when all is well.

    :param left: what was there when nothing should be.
    :param memory: resident KiB of the veteran, sampled evenly.
    """
    executed = sorted(
        (event for site in world.sites for event in read_events(site.directory)),
        key=lambda event: event.time,
    )
    ended = await ended_commands(world)
    evidence = Evidence(
        planned=load.planned, ended=ended, effects=load.effects, executed=executed, left=left
    )
    return [
        *(str(violation) for violation in check(evidence)),
        *demanded_outcomes(ended, executed),
        *_pollers(world),
        *_memory(memory),
    ]


async def ended_commands(world: World) -> dict[str, Ended]:
    """The history, by root."""
    async with await world.connect() as connection:
        cursor = await connection.execute(
            b"select command_id::text, outcome, aborted,"
            b" extract(epoch from archived_at)::float8, tasks from atm.history"
        )
        rows = await cursor.fetchall()
    return {
        root: Ended(root, outcome, aborted, at, tuple(_task(task) for task in tasks or ()))
        for root, outcome, aborted, at, tasks in rows
    }


def _task(task: dict[str, Any]) -> EndedTask:
    return EndedTask(
        task["task_id"],
        task["outcome"],
        task["vdsm_task_id"],
        _seconds(task["bound_at"]),
        _seconds(task["cleared_at"]),
    )


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def demanded_outcomes(ended: dict[str, Ended], executed: Sequence[ExecutionEvent]) -> Iterator[str]:
    """The simulators' log demands an outcome of every bound task: nothing else will do."""
    tasks = lives(executed)
    dropped = {event.task_id for event in executed if event.event == "dropped_at_load"}
    for root in ended.values():
        for task in root.tasks:
            if task.vdsm_task_id is None or task.vdsm_task_id in dropped:
                continue
            demanded = demand(tasks.get(task.vdsm_task_id))
            if task.outcome != demanded:
                yield (
                    f"task {task.task_id} of {root.root} is {task.outcome}, and the log demands "
                    f"{demanded}: {tasks.get(task.vdsm_task_id)}"
                )


def demand(task: VdsmTask | None) -> str:
    """The outcome that the life of a bound task demands."""
    return "succeeded" if task is not None and task.success else "failed"


def _pollers(world: World) -> Iterator[str]:
    for code, times in world.exits.items():
        if code != 0:
            yield f"{times} pollers ended with exit code {code} when they were told to end"
    for poller in world.pollers:
        if (code := poller.child.poll()) is not None:
            yield f"a poller ended by itself with exit code {code}: {poller.log()[-2000:]}"
    for poller in (*world.pollers, *world.past):
        for event in NEVER_LOGGED:
            for line in poller.logged(event):
                yield f"a poller has logged: {line}"


def _memory(memory: Sequence[int]) -> Iterator[str]:
    """Flat: what it holds after a third of the run is what it holds at the end."""
    if len(memory) < 9:
        return
    third = len(memory) // 3
    middle, last = max(memory[third : 2 * third]), max(memory[2 * third :])
    if last > middle + GROWTH_KIB:
        yield f"the veteran's memory grew from {middle} to {last} KiB"


def statistics(world: World, ended: dict[str, Ended]) -> dict[str, int]:
    """How many commands and tasks had which outcome."""
    counted: dict[str, int] = {"commands": len(ended)}
    for root in ended.values():
        key = f"commands {root.outcome}"
        counted[key] = counted.get(key, 0) + 1
        for task in root.tasks:
            counted[f"tasks {task.outcome}"] = counted.get(f"tasks {task.outcome}", 0) + 1
    counted["pollers"] = len(world.past) + len(world.pollers)
    return counted
