"""The three scenarios: a VM with four disks is removed; twice its engine is killed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyatm.demo.run import Run

if TYPE_CHECKING:
    from pyatm.demo.expectations import Result
    from pyatm.demo.stage import Stage

CREATE: Final = "Image.delete"
BETWEEN_DISKS: Final = 0.4
"""Seconds between the ends of two disks, so that the eye can follow."""
LONGER_THAN_THE_BARRIER: Final = 5.0
"""Seconds. With the demo's settings a task in doubt without anything at VDSM is over in less."""


async def remove_vm(stage: Stage) -> Result:
    """Everything goes well."""
    stage.display.heading("1. Remove a VM with 4 disks")
    async with Run(stage, "remove-vm") as run:
        await run.start_engine()
        await run.planned()
        await run.bound(4)
        stage.display.say("all 4 disks are bound; VDSM finishes one after the other")
        await _finish_all(run)
        await run.done()
        return await run.result("succeeded", removed=4)


async def engine_crash_unbound(stage: Stage) -> Result:
    """The engine dies after 2 of 4 disks; the answer for the third is lost with it."""
    stage.display.heading("2. The engine crashes with 2 of 4 disks bound, one answer lost")
    async with Run(stage, "engine-crash-unbound") as run:
        await stage.vdsm.fault("lose_answer", CREATE, skip=2)
        await run.start_engine()
        await run.planned()
        await run.bound(2)
        await stage.until(lambda: run.at_vdsm(3), "VDSM starts the third disk's task")
        stage.display.say("VDSM works on 3 disks; its answer about the third does not arrive")
        await run.kill_engine()
        run.expect("tasks bound at the crash", 2, await run.count_bound())
        run.expect("tasks at VDSM at the crash", 3, len(await stage.vdsm.tasks()))

        await run.start_engine_again()
        await stage.until(run.recovered, "the new engine recovers the command")
        run.expect("tasks that were never sent", 1, await run.count(outcome="not_submitted"))
        run.expect("tasks in doubt", 1, await run.count(state="in_doubt"))
        stage.display.say("recovered: disk 4 was never sent, disk 3 is in doubt")
        await stage.until(run.orphan_found, "the task without an owner is found as an orphan")
        orphan = await run.orphan()
        stage.display.say(f"orphan found: VDSM's task {orphan[:8]}, which is disk 3's lost answer")

        stage.display.say("the 2 running tasks are followed to their end")
        await _finish_all(run)
        await stage.until(lambda: run.succeeded(2), "the 2 bound tasks are over")
        await run.watch(LONGER_THAN_THE_BARRIER)
        run.expect("state while the orphan works", "sealed", await run.state())
        stage.display.say("the command does not end as long as VDSM works on the orphan")
        await stage.vdsm.finish(orphan)
        stage.display.say("now VDSM finishes the orphan")
        await run.done()
        return await run.result("failed", removed=3)


async def engine_crash_all_bound(stage: Stage) -> Result:
    """The engine dies when all disks are bound, which costs nothing but time."""
    stage.display.heading("3. The engine crashes with all 4 disks bound")
    async with Run(stage, "engine-crash-all-bound") as run:
        await run.start_engine()
        await run.planned()
        await run.bound(4)
        await run.kill_engine()
        run.expect("tasks bound at the crash", 4, await run.count_bound())
        stage.display.say("VDSM finishes all disks while no engine is there")
        await _finish_all(run)
        await stage.until(lambda: run.succeeded(4), "the poller reports the 4 tasks")
        run.expect("state before the engine is back", "ready", await run.state())
        await run.start_engine_again()
        await run.done()
        return await run.result("succeeded", removed=4)


async def _finish_all(run: Run) -> None:
    for task_id in await run.bound_ids():
        await run.watch(BETWEEN_DISKS)
        await run.stage.vdsm.finish(task_id)


ALL: Final = (remove_vm, engine_crash_unbound, engine_crash_all_bound)
"""In the order in which they are played."""
