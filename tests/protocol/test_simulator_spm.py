"""Persistence and the SPM role: restart, failover between hosts, ghosts, incomplete lists."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyatm.simulator.control import ControlError, fail_over
from pyatm.simulator.execution_log import read_events, read_tasks
from pyatm.simulator.process import SimulatorProcess, SimulatorProcessError
from pyatm.simulator.server import Simulator
from tests.protocol.simulated import POOL, FaultError, RawClient, new_id, settings, tell, until

UNTIL_TOLD = ("--job-seconds", "until-told")


def spm_start(**changes: Any) -> dict[str, Any]:
    return {
        "storagepoolID": POOL,
        "prevID": -1,
        "prevLver": "-1",
        "enableScsiFencing": "false",
        **changes,
    }


async def test_after_sigkill_tasks_come_back_as_vdsm_brings_them_back(tmp_path: Path) -> None:
    process = SimulatorProcess(tmp_path, pools=(POOL,), options=UNTIL_TOLD)
    with process:
        control = process.control()
        await control.become_spm()
        client = await RawClient.ready(process.port)
        volume, image = new_id(), new_id()
        done, running = await client.create(volume, image), await client.create()
        failed = await client.create()
        await control.finish(done)
        await control.fail(failed, code=205)
        assert (await client.ended(failed))["code"] == 205
        await client.ended(done)
        process.restart()
        assert await client.closed() in ("eof", "reset")

        client = await RawClient.ready(process.port)
        with pytest.raises(FaultError, match=r"654 Not SPM: \(\)"):
            await client.statuses()
        with pytest.raises(FaultError, match="401"):
            await client.call("Task.getStatus", taskID=done)
        start = await client.call("StoragePool.spmStart", **spm_start(prevID=1, prevLver="0"))
        assert (await client.ended(start))["taskResult"] == "success"
        status = await client.call("StoragePool.getSpmStatus", storagepoolID=POOL)
        assert status == {"spmStatus": "SPM", "spmLver": 1, "spmId": 1}
        await client.ended(running)
        found = await client.statuses()
        assert {name: (s["taskResult"], s["code"], s["message"]) for name, s in found.items()} == {
            done: ("success", 0, "1 jobs completed successfully"),
            running: ("cleanSuccess", 0, "Task is initializing"),
            failed: ("cleanSuccess", 0, "Task is initializing"),
        }
        everything = await client.call("Host.getAllTasks")
        assert everything[done]["result"] == f"{{'uuid': '{volume}'}}"
        assert set(await process.control().images(POOL)) == {image}
    records = read_tasks(tmp_path)
    assert [records[t].result for t in (done, running, failed)] == [
        "success",
        "cleanSuccess",
        "cleanSuccess",
    ]


async def test_after_failover_the_other_host_has_the_same_tasks(tmp_path: Path) -> None:
    with (
        SimulatorProcess(tmp_path, pools=(POOL,), spm=False, options=UNTIL_TOLD) as first,
        SimulatorProcess(tmp_path, pools=(POOL,), host_id=2, options=UNTIL_TOLD) as second,
    ):
        old, new = first.control(), second.control()
        await old.become_spm()
        with pytest.raises(ControlError, match="Cannot obtain lock"):
            await new.become_spm()
        client = await RawClient.ready(first.port)
        tasks = [await client.delete() for _ in range(12)]
        await old.finish(tasks[0])
        await client.ended(tasks[0])
        status = await fail_over(old, new, POOL)
        assert status == {"spmStatus": "SPM", "spmLver": 1, "spmId": 2}

        client = await RawClient.ready(second.port)
        for task_id in tasks[1:]:
            assert (await client.ended(task_id))["taskResult"] == "cleanSuccess"
        found = await client.statuses()
        assert set(found) == set(tasks)
        assert found[tasks[0]]["taskResult"] == "success"
        other = await RawClient.ready(first.port)
        with pytest.raises(FaultError, match="654"):
            await other.statuses()
        status = await other.call("StoragePool.getSpmStatus", storagepoolID=POOL)
        assert status == {"spmStatus": "Free", "spmLver": 1, "spmId": 2}


async def test_spm_start_in_the_same_process_fails_while_a_task_is_in_memory_then_ghosts_appear(
    tmp_path: Path,
) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        task_id = await client.create()
        await tell(simulator, "finish", task_id=task_id)
        await client.ended(task_id)
        assert await client.call("StoragePool.spmStop", storagepoolID=POOL) is True
        with pytest.raises(FaultError, match="654"):
            await client.statuses()
        assert (await client.ended(task_id))["taskResult"] == "success"

        start = await client.call("StoragePool.spmStart", **spm_start())
        status = await client.ended(start)
        assert (status["taskResult"], status["code"]) == ("cleanSuccess", 100)
        assert status["message"] == (
            "value=TaskManager error, unable to add task: "
            f"('Task id already in use: {task_id}',) abortedcode=100"
        )
        free = await client.call("StoragePool.getSpmStatus", storagepoolID=POOL)
        assert free["spmStatus"] == "Free"

        await client.call("Task.clear", taskID=task_id)
        start = await client.call("StoragePool.spmStart", **spm_start())
        assert (await client.ended(start))["taskResult"] == "success"
        ghosts = await client.statuses()
        assert ghosts[task_id]["taskResult"] == "success"
        await client.call("Task.clear", taskID=task_id)
        assert await client.statuses() == {}
        assert await tell(simulator, "stored_tasks") == []


async def test_work_that_goes_on_after_spm_stop_is_not_stored(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        task_id = await client.create()
        await client.call("StoragePool.spmStop", storagepoolID=POOL)
        await tell(simulator, "finish", task_id=task_id)
        assert (await client.ended(task_id))["taskResult"] == "success"
        await simulator.restart()
        client = await RawClient.ready(simulator.port)
        assert (await client.ended(task_id))["taskResult"] == "cleanSuccess"


async def test_the_role_comes_before_the_loaded_tasks_when_that_is_asked_for(
    tmp_path: Path,
) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        task_id = await client.create()
        await tell(simulator, "load", hide_polls=2)
        await simulator.restart()
        client = await RawClient.ready(simulator.port)
        assert [list(await client.statuses()) for _ in range(3)] == [[], [], [task_id]]


async def test_interrupted_tasks_wait_for_workers_as_cleaning(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        for _ in range(12):
            await client.create()
        await until(lambda: len(simulator.contents.images(POOL)) == 10)
        await tell(simulator, "load", rollback_seconds=0.3)
        await simulator.restart()
        client = await RawClient.ready(simulator.port)
        found = await client.call("Host.getAllTasks")
        states = sorted(task["state"] for task in found.values())
        assert set(states) <= {"racquiring", "recovering", "recovered"}
        assert {s["taskState"] for s in (await client.statuses()).values()} == {"cleaning"} or (
            "recovered" in states
        )
        for task_id in found:
            assert (await client.ended(task_id))["taskResult"] == "cleanSuccess"
        assert simulator.contents.images(POOL) == {}


async def test_a_task_that_cannot_be_read_is_left_out_and_logged(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        torn, whole, told = [await client.create() for _ in range(3)]
        await tell(simulator, "damage_task", task_id=torn)
        await tell(simulator, "load", dropped=[told])
        await simulator.restart()
        client = await RawClient.ready(simulator.port)
        await client.ended(whole)
        assert list(await client.statuses()) == [whole]
    dropped = {e.task_id for e in read_events(tmp_path) if e.event == "dropped_at_load"}
    assert dropped == {torn, told}


async def test_a_second_spm_start_waits_for_the_first_and_is_refused(tmp_path: Path) -> None:
    changes = {"spm": False, "spm_start_seconds": None}
    async with Simulator(settings(tmp_path, **changes)) as simulator:
        client = await RawClient.ready(simulator.port)
        first = await client.call("StoragePool.spmStart", **spm_start())
        second = client.request("StoragePool.spmStart", spm_start())
        with pytest.raises(FaultError, match="654"):
            await client.statuses()
        assert await client.call("Task.revert", taskID=first) is True
        await tell(simulator, "finish", task_id=first)
        with pytest.raises(FaultError, match="656 Operation not allowed while SPM is active"):
            await client.answer(second)
        assert list(await client.statuses()) == []
        assert await client.call("Task.clear", taskID=first) is True


async def test_a_pool_that_is_not_connected_is_309_and_one_without_spm_654(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path, pools=(), spm=False)) as simulator:
        client = await RawClient.ready(simulator.port)
        for call in (
            client.delete(),
            client.call("StoragePool.getSpmStatus", storagepoolID=POOL),
            client.call("StoragePool.spmStart", **spm_start()),
        ):
            with pytest.raises(FaultError, match="309"):
                await call
        await client.call("StoragePool.connect", storagepoolID=POOL, hostID=1, scsiKey=POOL)
        for call in (client.delete(), client.statuses()):
            with pytest.raises(FaultError, match="654"):
                await call


async def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, time\n"
        "from pyatm.simulator.process import SimulatorProcess\n"
        "p = SimulatorProcess(pathlib.Path(sys.argv[1]))\n"
        "p.start(); print(p.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await asyncio.to_thread(parent.stdout.readline))
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def gone() -> bool:
        try:
            stat = Path(f"/proc/{child}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rsplit(")", 1)[1].split()[0] == "Z"

    await until(gone)


async def test_a_port_in_use_is_a_clear_error_without_traceback(tmp_path: Path) -> None:
    with SimulatorProcess(tmp_path / "a") as first:
        second = SimulatorProcess(tmp_path / "b", port=first.port)
        with pytest.raises(SimulatorProcessError, match="cannot start") as caught:
            second.start()
        assert "Traceback" not in str(caught.value)
        first.pause()
        first.resume()
        os.kill(first.pid, signal.SIGTERM)


async def test_a_pool_on_the_command_line_that_is_not_a_uuid_is_named(tmp_path: Path) -> None:
    process = SimulatorProcess(tmp_path, pools=("../pool",))
    with pytest.raises(SimulatorProcessError, match=r"--pool .*'../pool'.*\n.*uuid"):
        process.start()
