"""When a list of tasks counts: not when the SPM moved meanwhile, nor for what came after it."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from pyatm.poller.spm import SpmFinder
from pyatm.simulator.control import SimulatorControl
from pyatm.simulator.process import SimulatorProcess
from pyatm.vdsm import Address, VdsmClient
from tests.poller.stage import PATIENCE, UNTIL_TOLD, Stage, until

Running = Callable[..., Any]
LIST = "Host.getAllTasksStatuses"


async def listed(control: SimulatorControl, fault: int) -> None:
    """Wait until VDSM has made a list, whose answer is on its way for long."""
    async with asyncio.timeout(PATIENCE):
        while not await control.fault_used(fault):
            await asyncio.sleep(0.02)


async def test_a_list_says_nothing_when_the_spm_role_moved_meanwhile(
    stage: Stage, running: Running
) -> None:
    pool, directory = str(uuid.uuid4()), stage.directory / "vdsm"
    first = running(SimulatorProcess(directory, pools=(pool,), options=UNTIL_TOLD))
    finder = SpmFinder(pool, VdsmClient, lambda method, outcome: None)
    finder.set_hosts([Address(first.host, first.port)])
    async with first.control() as control:
        await control.become_spm(pool)
        fault = await control.fault("delay_answer", LIST, seconds=3)
        polling = asyncio.create_task(finder.list_tasks())
        await listed(control, fault)
        # The same host again, but another incarnation, which may not have loaded all tasks yet.
        await control.lose_spm(pool)
        await control.become_spm(pool)
        listing = await polling
        assert listing.spm is not None
        assert listing.statuses is None, "the list of an SPM that is none any more"
        again = await finder.list_tasks()
        assert again.spm is not None
        assert again.spm["lver"] > listing.spm["lver"]
        assert again.statuses == "{}"
    await finder.close()


async def test_a_task_that_was_bound_while_a_list_was_on_its_way_is_not_missing_from_it(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    stage.set("absence_polls", "1")
    stage.set("absence_time", "0")
    host = running(
        SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True, options=UNTIL_TOLD)
    )
    stage.pool(host, pool_id=pool)
    async with host.control() as control:
        command, tasks = stage.plan(pool)
        fault = await control.fault("delay_answer", LIST, seconds=3)
        running(stage.poller())
        await listed(control, fault)
        (vdsm,) = await stage.send(host, pool, tasks)
        await until(lambda: stage.polled_host(pool), "the list has been reported")
        assert stage.state(command) == "sealed", "the list is older than the task"
        await control.finish(vdsm)
        await stage.ended(command, "succeeded")
