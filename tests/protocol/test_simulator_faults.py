"""Faults on demand: every knob does what it says, and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from pyatm.simulator.control import ControlError, SimulatorControl
from pyatm.simulator.execution_log import read_events, read_tasks
from pyatm.simulator.process import SimulatorProcess
from pyatm.simulator.server import Simulator
from tests.protocol.simulated import POOL, FaultError, RawClient, deletion, settings, tell, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(settings(tmp_path, control_port=0)) as running:
        yield running


@pytest.fixture
async def control(simulator: Simulator) -> AsyncIterator[SimulatorControl]:
    assert simulator.control_port is not None
    async with SimulatorControl("127.0.0.1", simulator.control_port) as opened:
        yield opened


async def test_the_answer_of_the_second_create_is_lost_and_its_task_exists(
    simulator: Simulator, control: SimulatorControl
) -> None:
    number = await control.fault("lose_answer", "create", skip=1)
    client = await RawClient.ready(simulator.port)
    first = await client.delete()
    lost = client.request("Image.delete", deletion())
    third = await client.delete()
    found = await client.statuses()
    assert len(found) == 3
    assert {first, third} < set(found)
    assert not any(json.loads(f.body).get("id") == lost for f in client.frames)
    assert await control.fault_used(number) == 1
    (event,) = [e for e in read_events(simulator.settings.directory) if e.event == "answer_lost"]
    assert json.loads(event.details["answer"]) in set(found) - {first, third}


async def test_a_delayed_answer_comes_later_but_its_task_exists_at_once(
    simulator: Simulator, control: SimulatorControl
) -> None:
    await control.fault("delay_answer", "Image.delete", seconds=0.3)
    client = await RawClient.ready(simulator.port)
    number = client.request("Image.delete", deletion())
    (task_id,) = await client.statuses()
    assert not client.frames
    assert await client.answer(number) == task_id


async def test_a_task_is_born_after_its_connection_is_gone(
    simulator: Simulator, control: SimulatorControl
) -> None:
    await control.fault("born_late", "create", seconds=0.3)
    client = await RawClient.ready(simulator.port)
    client.request("Image.delete", deletion(), ovirtCorrelationId="late")
    await client.closed()
    client = await RawClient.ready(simulator.port)
    assert await client.statuses() == {}
    await until(lambda: bool(simulator.process.tasks.tasks))
    (task_id,) = await client.statuses()
    assert read_tasks(simulator.settings.directory)[task_id].correlation_id == "late"


async def test_a_late_answer_reaches_who_is_subscribed_to_its_destination_by_then(
    simulator: Simulator, control: SimulatorControl
) -> None:
    await control.fault("born_late", "create", seconds=0.3)
    client = await RawClient.ready(simulator.port)
    number = client.request("Image.delete", deletion())
    await client.closed()
    client = await RawClient.ready(simulator.port, destination=client.destination)
    task_id = await client.answer(number)
    assert list(await client.statuses()) == [task_id]


@pytest.mark.parametrize(("action", "tasks"), [("drop_before", 0), ("drop_after", 1)])
async def test_a_connection_is_dropped_before_or_after_executing(
    simulator: Simulator, control: SimulatorControl, action: str, tasks: int
) -> None:
    await control.fault(action, "Image.delete")
    client = await RawClient.ready(simulator.port)
    client.request("Image.delete", deletion())
    await client.closed()
    assert not client.frames
    assert len(simulator.process.tasks.tasks) == tasks


async def test_a_half_open_connection_stays_but_says_nothing(
    simulator: Simulator, control: SimulatorControl
) -> None:
    client = await RawClient.ready(simulator.port)
    assert await control.half_open() == 1
    client.request("Host.ping2", {})
    other = await RawClient.ready(simulator.port)
    assert await other.call("Host.ping2") is True
    assert not client.frames
    assert not client.end
    await control.fault("half_open", "Image.delete")
    other.request("Image.delete", deletion())
    await until(lambda: bool(simulator.process.tasks.tasks))
    assert not other.end


async def test_a_refused_create_makes_no_task(
    simulator: Simulator, control: SimulatorControl
) -> None:
    image = "e1ff98be-f6b8-4b6e-95d8-279facebad75"
    await control.fault(
        "refuse", "Image.delete", params={"imageID": image}, code=358, message="No domain: ()"
    )
    client = await RawClient.ready(simulator.port)
    await client.delete()
    with pytest.raises(FaultError, match=r"358 No domain: \(\)"):
        await client.delete(image)
    await client.delete(image)
    assert len(await client.statuses()) == 2


async def test_slow_verbs_are_slow_and_ping_is_not(
    simulator: Simulator, control: SimulatorControl
) -> None:
    await control.slow(0.3)
    client = await RawClient.ready(simulator.port)
    number = client.request("Host.getAllTasksStatuses", {})
    assert await client.call("Host.ping2") is True
    assert not client.frames
    assert await client.answer(number) == {}
    await control.slow(0)


async def test_vdsm_is_deaf_until_it_is_restarted(
    simulator: Simulator, control: SimulatorControl
) -> None:
    await control.deaf()
    client = await RawClient.ready(simulator.port)
    client.request("Host.ping2", {})
    await asyncio.sleep(0.1)
    assert not client.frames
    assert (await control.status())["deaf"] is True
    await control.restart()
    client = await RawClient.ready(simulator.port)
    assert await client.call("Host.ping2") is True


async def test_a_restart_refuses_connections_then_says_99_then_has_the_tasks(
    simulator: Simulator, control: SimulatorControl
) -> None:
    client = await RawClient.ready(simulator.port)
    task_id = await client.delete()
    restarting = asyncio.create_task(control.restart(down_seconds=0.3, starting_seconds=0.3))
    await client.closed()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(simulator.port)
    await restarting
    client = await RawClient.ready(simulator.port)
    with pytest.raises(FaultError, match="99 Recovering from crash or Initializing"):
        await client.call("Host.ping2")
    await control.starting(0)
    assert (await client.ended(task_id))["taskResult"] == "cleanSuccess"


async def test_connections_are_refused_and_accepted_again(
    simulator: Simulator, control: SimulatorControl
) -> None:
    client = await RawClient.ready(simulator.port)
    await control.accept(False)
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(simulator.port)
    assert await client.call("Host.ping2") is True
    await control.accept(True)
    await RawClient.ready(simulator.port)
    assert await control.drop_connections() == 2
    await client.closed()


async def test_job_plans_match_by_method_and_count(
    simulator: Simulator, control: SimulatorControl
) -> None:
    await control.job((0.01, 0.05), method="Image.delete", count=1, failure={"code": 256})
    client = await RawClient.ready(simulator.port)
    failing = await client.delete()
    assert (await client.ended(failing))["code"] == 256
    other = await client.delete()
    assert (await client.call("Task.getStatus", taskID=other))["taskState"] == "running"
    await control.default_job(0.01)
    assert (await client.ended(await client.delete()))["taskResult"] == "success"
    await control.finish()
    assert (await client.ended(other))["taskResult"] == "success"


async def test_the_role_is_lost_and_taken_on_demand(
    simulator: Simulator, control: SimulatorControl
) -> None:
    client = await RawClient.ready(simulator.port)
    await control.lose_spm()
    with pytest.raises(FaultError, match="654"):
        await client.statuses()
    assert (await control.become_spm(POOL))["spmLver"] == 1
    assert await client.statuses() == {}


@pytest.mark.parametrize(("action", "tasks"), [("kill_before", 0), ("kill_after", 1)])
async def test_the_process_kills_itself_before_or_after_executing(
    tmp_path: Path, action: str, tasks: int
) -> None:
    with SimulatorProcess(tmp_path, pools=(POOL,), spm=True) as process:
        await process.control().fault(action, "create")
        client = await RawClient.ready(process.port)
        client.request("Image.delete", deletion())
        await client.closed()
        await until(lambda: not process.running)
        process.start()
        client = await RawClient.ready(process.port)
        assert len(await client.statuses()) == tasks
    assert len(read_tasks(tmp_path)) == tasks


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"operation": "no_such"}, "unknown operation 'no_such'; known: "),
        ({"operation": "fault", "action": "explode"}, "field action must be one of"),
        ({"operation": "slow"}, "field seconds is required"),
        ({"operation": "slow", "seconds": -1}, "field seconds must be a number of seconds"),
        ({"operation": "deaf", "loud": 1}, "unknown field loud"),
        ({"operation": "finish", "task_id": "a.b"}, "Invalid parameter"),
        ({"operation": "job", "seconds": [3, 1]}, r"must be \[least, most\] in that order"),
    ],
)
async def test_bad_control_input_names_the_field_and_the_fix(
    control: SimulatorControl, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ControlError, match=reason):
        await control.perform(**fields)
    assert (await control.status())["alive"] is True


async def test_a_control_line_that_is_not_json_is_answered(simulator: Simulator) -> None:
    assert simulator.control_port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.control_port)
    for line in (b"{nope\n", b"[]\n", b"{}\n"):
        writer.write(line)
        assert json.loads(await reader.readline())["ok"] is False
    writer.close()


async def test_a_snapshot_of_the_disk_contents_can_be_asked_for(
    simulator: Simulator, control: SimulatorControl
) -> None:
    client = await RawClient.ready(simulator.port)
    task_id = await client.create()
    await control.finish(task_id)
    await client.ended(task_id)
    (image,) = (await control.images(POOL)).values()
    assert list(image["volumes"].values()) == ["legal"]
    assert await tell(simulator, "stored_tasks", pool_id=POOL) == [task_id]


async def test_a_task_whose_removal_was_interrupted_is_neither_listed_nor_stored(
    simulator: Simulator, tmp_path: Path
) -> None:
    client = await RawClient.ready(simulator.port)
    task_id = await client.create()
    (directory,) = tmp_path.rglob(f"tasks/{task_id}")
    for file in directory.iterdir():
        file.unlink()
    await simulator.restart()
    client = await RawClient.ready(simulator.port)
    assert await client.statuses() == {}
    assert await tell(simulator, "stored_tasks", pool_id=POOL) == []
