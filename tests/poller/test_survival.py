"""Pollers come, die and freeze; the database and VDSM go away and come back."""

import asyncio
import signal
import uuid
from collections.abc import Callable
from typing import Any

from pyatm.simulator.control import fail_over
from pyatm.simulator.process import SimulatorProcess
from tests.poller.stage import PATIENCE, UNTIL_TOLD, Stage, until

Running = Callable[..., Any]


async def test_the_pools_of_a_killed_poller_are_taken_over(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    first = running(stage.poller())
    second = running(stage.poller())
    assert stage.holder(pool) == first.name
    command, _ = await stage.command(host, pool)
    first.end(signal.SIGKILL)
    async with host.control() as control:
        await control.finish()
    await until(lambda: stage.holder(pool) == second.name, "the other one has the pool")
    await stage.ended(command, "succeeded")


async def test_sigterm_gives_the_pools_up_long_before_the_lease_ends(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    first = running(stage.poller(PYATM_POLLER__LEASE="3600"))
    second = running(stage.poller())
    assert stage.holder(pool) == first.name
    assert first.end(signal.SIGTERM) == 0
    await until(lambda: stage.holder(pool) == second.name, "the other one has the pool")
    command, _ = await stage.command(host, pool)
    await stage.ended(command, "succeeded")


async def test_a_frozen_poller_stops_touching_a_pool_that_it_has_lost(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    first = running(stage.poller())
    second = running(stage.poller())
    await until(lambda: stage.holder(pool) == first.name, "the first has the pool")
    first.send(signal.SIGSTOP)
    await until(lambda: stage.holder(pool) == second.name, "the other one has the pool")
    first.send(signal.SIGCONT)
    await until(lambda: first.logged("pool given up"), "the first has noticed")
    command, _ = await stage.command(host, pool)
    await stage.ended(command, "succeeded")
    assert stage.holder(pool) == second.name


async def test_terminated_connections_are_made_again(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    poller = running(stage.poller())
    command, _ = await stage.command(host, pool)
    await until(lambda: stage.polled_host(pool), "the pool is polled")
    for _ in range(3):
        stage.value(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.2)
    async with host.control() as control:
        await control.finish()
    await stage.ended(command, "succeeded")
    assert poller.child.poll() is None
    assert poller.end() == 0


async def test_a_poller_waits_for_a_database_that_is_not_there_yet(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    limit = "update pg_database set datallowconn = %s where datname = current_database()"
    stage.db.execute(limit.encode(), [False])
    with stage.poller() as poller:
        await until(lambda: poller.logged("database not reached; trying again"), "it complains")
        stage.db.execute(limit.encode(), [True])
        poller.wait_ready()
        await until(lambda: stage.polled_host(pool), "the pool is polled")
        assert poller.end() == 0


async def test_the_spm_role_is_followed_to_another_host(stage: Stage, running: Running) -> None:
    pool, directory = str(uuid.uuid4()), stage.directory / "vdsm"
    first = running(SimulatorProcess(directory, pools=(pool,), options=UNTIL_TOLD))
    second = running(SimulatorProcess(directory, pools=(pool,), host_id=2, options=UNTIL_TOLD))
    stage.pool(first, second, pool_id=pool)
    async with first.control() as old, second.control() as new:
        await old.become_spm(pool)
        running(stage.poller())
        done, (finished,) = await stage.command(first, pool)
        await old.finish(finished)
        await until(lambda: stage.state(done) == "ready", "the first is done")
        cut, _ = await stage.command(first, pool)
        await fail_over(old, new, pool)
        address = f"{second.host}:{second.port}"
        await until(lambda: stage.polled_host(pool) == address, "the new SPM is polled")
        # VDSM has rolled the interrupted work back.
        await until(lambda: stage.state(cut) == "ready", "the second is over")
        assert dict(stage.finish()) == {done: "succeeded", cut: "failed"}
        await until(lambda: stage.value("select count(*) = 0 from atm.commands"), "all is cleared")
        async with asyncio.timeout(PATIENCE):
            while await new.tasks():
                await asyncio.sleep(0.05)


async def test_vdsm_is_killed_and_comes_back(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    running(stage.poller())
    command, _ = await stage.command(host, pool)
    await until(lambda: stage.polled_host(pool), "the pool is polled")
    host.restart()
    await stage.ended(command, "failed")


async def test_a_poller_ends_with_its_parent(stage: Stage, running: Running) -> None:
    poller = running(stage.poller())
    assert poller.child.stdin is not None
    poller.child.stdin.close()
    assert await asyncio.to_thread(poller.child.wait, PATIENCE) == 0


async def test_lists_that_lack_recovered_tasks_lose_none_and_a_task_that_is_gone_is_lost(
    stage: Stage, running: Running
) -> None:
    pool, directory = str(uuid.uuid4()), stage.directory / "vdsm"
    first = running(SimulatorProcess(directory, pools=(pool,), options=UNTIL_TOLD))
    second = running(SimulatorProcess(directory, pools=(pool,), host_id=2, options=UNTIL_TOLD))
    stage.pool(first, second, pool_id=pool)
    async with first.control() as old, second.control() as new:
        await old.become_spm(pool)
        poller = running(stage.poller())
        whole, (kept,) = await stage.command(first, pool)
        broken, (gone,) = await stage.command(first, pool)
        await until(lambda: stage.polled_host(pool), "the pool is polled")
        # Its work ends and its SPM dies before anybody has looked.
        poller.send(signal.SIGSTOP)
        await old.finish(kept)
        await old.finish(gone)
        async with asyncio.timeout(PATIENCE):
            while {task["state"] for task in await old.tasks()} != {"finished"}:
                await asyncio.sleep(0.05)
        # One list less than would be believed.
        await new.load(hide_polls=2, dropped=[gone])
        await fail_over(old, new, pool)
        poller.send(signal.SIGCONT)
        await until(lambda: stage.state(whole) == "ready", "the first is over")
        await until(lambda: stage.state(broken) == "ready", "the second is over")
        assert dict(stage.finish()) == {whole: "succeeded", broken: "failed"}
        await until(lambda: stage.value("select count(*) = 0 from atm.commands"), "all is cleared")
        outcomes = stage.value(
            "select array_agg(t ->> 'outcome' order by h.outcome)"
            " from atm.history h, jsonb_array_elements(h.tasks) t"
        )
        assert outcomes == ["lost", "succeeded"]
