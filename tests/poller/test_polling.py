"""A poller's daily work: polling, ending, clearing, stopping, reverting, orphans."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from pyatm.simulator.process import SimulatorProcess
from pyatm.vdsm import Address, VdsmClient
from tests.poller.stage import DOMAIN, UNTIL_TOLD, Stage, until

Running = Callable[..., Any]


async def test_a_bound_task_is_polled_to_its_end_and_cleared(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    poller = running(stage.poller())
    command, vdsm_ids = await stage.command(host, pool, 4)
    await stage.ended(command, "succeeded")
    async with host.control() as control:
        assert await control.tasks() == []
    done = poller.logged("done at VDSM")
    assert {line["vdsm_task_id"] for line in done} == set(vdsm_ids)
    for line in done:
        assert (line["root_command_id"], line["storage_pool_id"]) == (str(command), pool)
        assert (line["action"], line["host"]) == ("clear", f"127.0.0.1:{host.port}")


async def test_an_idle_pool_gets_its_first_task_with_notify_off(
    stage: Stage, running: Running
) -> None:
    stage.set("notify", "off")
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    # The slow check of an idle pool is far off: only the look into the database can find the task.
    running(stage.poller(PYATM_POLLER__IDLE_INTERVAL="3600"))
    await until(lambda: stage.polled_host(pool), "the pool is polled")
    command, _ = await stage.command(host, pool)
    await stage.ended(command, "succeeded")


async def test_a_notification_finds_the_first_task_of_an_idle_pool(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    # No other look at the database comes while this test has patience.
    running(
        stage.poller(
            PYATM_POLLER__IDLE_INTERVAL="3600",
            PYATM_POLLER__RESCAN_INTERVAL="3600",
            PYATM_POLLER__LEASE="3600",
        )
    )
    await until(lambda: stage.polled_host(pool), "the pool is polled")
    command, _ = await stage.command(host, pool)
    await stage.ended(command, "succeeded")


async def test_a_cancelled_command_is_stopped_at_vdsm(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    running(stage.poller())
    command, _ = await stage.command(host, pool, 2)
    stage.value("select atm.cancel_command(%s, 'test', dry_run => false)", command)
    await stage.ended(command, "failed")
    async with host.control() as control:
        assert await control.tasks() == []


async def test_a_reverted_task_is_rolled_back_and_cleared(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    running(stage.poller())
    command, (task,) = stage.plan(pool)
    image, volume = str(uuid.uuid4()), str(uuid.uuid4())
    async with VdsmClient(Address(host.host, host.port)) as client:
        created = await client.volume.create(
            volume, pool_id=pool, domain_id=DOMAIN, image_id=image, size_bytes=1 << 30
        )
    stage.bind(task, created)
    await until(lambda: stage.state(command) == "ready", "the command is ready")
    async with host.control() as control:
        assert image in await control.images(pool)
        assert stage.finish("revert") == [(command, "succeeded")]
        await until(lambda: stage.state(command) is None, "the command is cleared")
        assert image not in await control.images(pool)
        assert await control.tasks() == []


async def test_an_answer_that_got_lost_leaves_an_orphan_that_is_cleared(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    running(stage.poller())
    command, (task,) = stage.plan(pool)
    async with VdsmClient(Address(host.host, host.port)) as client, host.control() as control:
        await client.image.delete(str(uuid.uuid4()), pool_id=pool, domain_id=DOMAIN)
        stage.db.execute(
            "select from atm.doubt_task(%s, %s, 'the answer got lost')", [stage.epoch, task]
        )
        await until(
            lambda: stage.value("select count(*) from atm_internal.unknown"), "it is an unknown"
        )
        assert stage.state(command) != "ready"
        await control.finish()
        await stage.ended(command, "failed")
        end = asyncio.get_running_loop().time() + 20
        while await control.tasks():
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.05)


async def test_a_hung_spm_does_not_delay_another_pool(stage: Stage, running: Running) -> None:
    hung, sound = str(uuid.uuid4()), str(uuid.uuid4())
    first = running(SimulatorProcess(stage.directory / "one", pools=(hung,), spm=True))
    second = running(SimulatorProcess(stage.directory / "two", pools=(sound,), spm=True))
    stage.pool(first, pool_id=hung)
    stage.pool(second, pool_id=sound)
    running(stage.poller(PYATM_VDSM__REQUEST_TIMEOUT="600"))
    waiting, _ = await stage.command(first, hung)
    await until(lambda: stage.polled_host(hung), "the pool is polled")
    async with first.control() as control:
        await control.half_open()
    command, _ = await stage.command(second, sound)
    await stage.ended(command, "succeeded")
    assert stage.state(waiting) is not None
