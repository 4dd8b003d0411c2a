"""The life of tasks in the simulator: ends, stop, revert, clear, limits, locks, disk contents."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pyatm.simulator.execution_log import read_tasks
from pyatm.simulator.server import Simulator
from pyatm.simulator.storage import Existence
from tests.protocol.simulated import (
    DOMAIN,
    POOL,
    FaultError,
    RawClient,
    creation,
    deletion,
    new_id,
    settings,
    tell,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_removed_image_is_gone_from_disk_and_in_the_log(tmp_path: Path) -> None:
    image = new_id()
    async with Simulator(settings(tmp_path, existence=Existence.STRICT)) as simulator:
        simulator.contents.add_volume(POOL, DOMAIN, image, new_id())
        client = await RawClient.ready(simulator.port)
        number = client.request("Image.delete", deletion(image), ovirtCorrelationId="remove-vm-1")
        task_id = await client.answer(number)
        assert simulator.contents.images(POOL)[image].removing
        await tell(simulator, "finish", task_id=task_id)
        assert (await client.ended(task_id))["taskResult"] == "success"
        assert simulator.contents.images(POOL) == {}
        with pytest.raises(FaultError, match="268 Image does not exist in domain"):
            await client.delete(image)
        await client.call("Task.clear", taskID=task_id)
    record = read_tasks(tmp_path)[task_id]
    assert (record.verb, record.result, record.work_done) == ("deleteImage", "success", True)
    assert record.cleared
    assert record.correlation_id == "remove-vm-1"


async def test_a_failed_removal_leaves_the_image_to_be_removed_again(tmp_path: Path) -> None:
    image = new_id()
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        first = await client.delete(image)
        await tell(simulator, "fail", task_id=first, code=256)
        status = await client.ended(first)
        assert (status["taskResult"], status["code"]) == ("cleanSuccess", 256)
        assert simulator.contents.images(POOL)[image].removing
        second = await client.delete(image)
        await tell(simulator, "finish", task_id=second)
        await client.ended(second)
        assert simulator.contents.removed(POOL) == {image}


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        ({"code": 205}, 205, "value=Error creating a new volume: "),
        ({"errno": 28}, 100, "value=[Errno 28] No space left on device abortedcode=100"),
        ({"message": "boom"}, 100, "value=boom abortedcode=100"),
    ],
)
async def test_a_failed_volume_is_rolled_back_with_the_code_of_its_error(
    tmp_path: Path, failure: dict[str, object], code: int, text: str
) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        volume, image = new_id(), new_id()
        task_id = await client.create(volume, image)
        await until(lambda: image in simulator.contents.images(POOL))
        assert simulator.contents.images(POOL)[image].volumes == {volume: "half-made"}
        await tell(simulator, "fail", task_id=task_id, **failure)
        status = await client.ended(task_id)
        assert (status["taskResult"], status["code"]) == ("cleanSuccess", code)
        assert status["message"].startswith(text)
        assert simulator.contents.images(POOL) == {}


async def test_a_rollback_that_fails_ends_clean_failure_and_leaves_the_volume(
    tmp_path: Path,
) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        await tell(simulator, "job", rollback_fails=True, failure={"code": 205}, seconds=0.01)
        task_id = await client.create()
        status = await client.ended(task_id)
        assert (status["taskResult"], status["code"]) == ("cleanFailure", 205)
        assert len(simulator.contents.images(POOL)) == 1
        with pytest.raises(FaultError, match=r"441 .*from failed to racquiring"):
            await client.call("Task.revert", taskID=task_id)


async def test_a_reverted_volume_is_removed_again(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        task_id = await client.create()
        await tell(simulator, "finish", task_id=task_id)
        await client.ended(task_id)
        assert len(simulator.contents.images(POOL)) == 1
        await client.call("Task.revert", taskID=task_id)
        status = await client.ended(task_id)
        assert (status["taskResult"], status["code"]) == ("cleanSuccess", 0)
        assert status["message"] == "1 jobs completed successfully"
        assert simulator.contents.images(POOL) == {}


async def test_stop_during_the_rollback_is_accepted_and_changes_nothing(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        await tell(simulator, "job", rollback_seconds=0.3, seconds=None)
        task_id = await client.create()
        await tell(simulator, "fail", task_id=task_id, code=205)
        task = simulator.process.tasks.get(task_id)
        await until(lambda: task.state == "recovering")
        for method, code in (("Task.clear", 410), ("Task.revert", 403)):
            with pytest.raises(FaultError, match=str(code)):
                await client.call(method, taskID=task_id)
        assert await client.call("Task.stop", taskID=task_id) is True
        assert (await client.ended(task_id))["code"] == 205


async def test_the_second_removal_of_an_image_waits_until_the_first_has_ended(
    tmp_path: Path,
) -> None:
    async with Simulator(settings(tmp_path, existence=Existence.ASSUMED)) as simulator:
        client = await RawClient.ready(simulator.port)
        image = new_id()
        first = await client.delete(image)
        number = client.request("Image.delete", deletion(image))
        assert list(await client.statuses()) == [first]
        await tell(simulator, "finish", task_id=first)
        second = await client.answer(number)
        assert set(await client.statuses()) == {first, second}


async def test_a_verb_that_waits_too_long_for_a_resource_gets_851(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path, lock_timeout=0.1)) as simulator:
        client = await RawClient.ready(simulator.port)
        image = new_id()
        first = await client.delete(image)
        with pytest.raises(FaultError, match=r"851 Resource timeout: \(\)"):
            await client.delete(image)
        assert list(await client.statuses()) == [first]
        await tell(simulator, "finish", task_id=first)
        await client.ended(first)
        with pytest.raises(FaultError, match="268"):
            await client.delete(image)


async def test_creates_block_while_the_queue_is_full_and_eight_of_them_make_vdsm_mute(
    tmp_path: Path,
) -> None:
    async with Simulator(settings(tmp_path, task_threads=2, max_tasks=3)) as simulator:
        client = await RawClient.ready(simulator.port)
        for _ in range(5):
            await client.create()
        blocked = [client.request("Volume.create", creation()) for _ in range(8)]
        await until(lambda: len(simulator.process.tasks.tasks) == 13)
        ping = client.request("Host.ping2", {})
        await asyncio.sleep(0.1)
        assert not client.frames
        await tell(simulator, "finish", all=True)
        for number in (*blocked, ping):
            await client.answer(number)
        await until(lambda: all(t.done for t in simulator.process.tasks.tasks.values()))


async def test_without_threads_nothing_starts_until_there_are_some(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path)) as simulator:
        client = await RawClient.ready(simulator.port)
        await tell(simulator, "threads", threads=0)
        task_id = await client.create()
        status = await client.call("Task.getStatus", taskID=task_id)
        assert (status["taskState"], status["message"]) == ("running", "Task is initializing")
        await tell(simulator, "threads", threads=10)
        await tell(simulator, "finish", task_id=task_id)
        assert (await client.ended(task_id))["taskResult"] == "success"


async def test_a_task_stopped_in_the_queue_never_touches_the_disk(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path, task_threads=1)) as simulator:
        client = await RawClient.ready(simulator.port)
        first, second = await client.create(), await client.create()
        await client.call("Task.stop", taskID=second)
        status = await client.call("Task.getStatus", taskID=second)
        assert (status["taskResult"], status["code"]) == ("cleanSuccess", 0)
        await tell(simulator, "finish", task_id=first)
        await client.ended(first)
        assert len(simulator.contents.images(POOL)) == 1
    assert not read_tasks(tmp_path)[second].work_done


async def test_the_same_seed_gives_the_same_ids_and_another_life_others(tmp_path: Path) -> None:
    async def ids(directory: Path) -> list[str]:
        async with Simulator(settings(directory, seed=7)) as simulator:
            client = await RawClient.ready(simulator.port)
            return [await client.create() for _ in range(3)]

    first = await ids(tmp_path / "a")
    assert await ids(tmp_path / "b") == first
    assert not set(await ids(tmp_path / "b")) & set(first)


async def test_a_volume_whose_parent_is_gone_is_refused(tmp_path: Path) -> None:
    async with Simulator(settings(tmp_path, existence=Existence.STRICT)) as simulator:
        client = await RawClient.ready(simulator.port)
        parent = new_id()
        request = {**creation(), "srcImgUUID": new_id(), "srcVolUUID": parent}
        with pytest.raises(FaultError, match=f"201 Volume does not exist: .'{parent}',."):
            await client.call("Volume.create", **request)
        assert await client.statuses() == {}
