"""Every flow, when its tasks are stopped by an operator, forgotten by VDSM, or cut off."""

from pathlib import Path

import pytest

from pyatm.simulator.control import SimulatorControl, fail_over
from pyatm.simulator.process import SimulatorProcess
from tests.flows.agreement import settle_and_judge
from tests.flows.kills import release
from tests.flows.stage import POOL, EngineProcess, Stage

FLOWS = ("remove-vm", "hibernate-vm", "create-template", "create-snapshot")


def begun(stage: Stage, flow: str) -> EngineProcess:
    """A flow of two tasks that both work at VDSM and do not end by themselves."""
    stage.control("default_job", None)
    engine = stage.begin(flow, disks=2)
    engine.until("submitted")
    return engine


def failed_as(stage: Stage, engine: EngineProcess, outcomes: list[str]) -> None:
    """The command ends with failure, and everything else is right."""
    ended = engine.until("ended")
    assert (ended["outcome"], ended["tasks"]) == ("failed", outcomes)
    assert engine.finish() == 0
    settle_and_judge(stage)
    assert stage.one("select state from pyatm_inventory.vm") == "OK"


def cancel(stage: Stage, engine: EngineProcess) -> None:
    command = engine.all("planned")[0]["command_id"]
    stage.db.execute("select atm.cancel_command(%s, 'test', false)", [command])


@pytest.mark.parametrize("flow", FLOWS)
def test_a_cancelled_flow_is_stopped_and_undone(stage: Stage, flow: str) -> None:
    with begun(stage, flow) as engine:
        cancel(stage, engine)
        failed_as(stage, engine, ["failed", "failed"])
    # A removal that has begun cannot be undone.
    assert ("ILLEGAL" in stage.disks().values()) == (flow == "remove-vm")
    assert stage.one(
        "select bool_and(t ->> 'vdsm_code' = '411') from atm.history h,"
        " jsonb_array_elements(h.tasks) t"
    )


def test_what_was_not_sent_before_the_cancellation_never_is(stage: Stage) -> None:
    stage.control("default_job", None)
    with stage.begin("remove-vm", "--pause-at", "bound:1", disks=3) as engine:
        engine.until("paused")
        cancel(stage, engine)
        engine.resume()
        failed_as(stage, engine, ["failed", "failed", "not_submitted"])
    assert sorted(stage.disks().values()) == ["ILLEGAL", "ILLEGAL", "OK"]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_forgotten_task_is_lost_and_its_disk_illegal(stage: Stage, flow: str) -> None:
    with begun(stage, flow) as engine:
        first = engine.all("bound")[0]["vdsm_task_id"]
        stage.control("load", dropped=[first])
        stage.control("restart")
        failed_as(stage, engine, ["lost", "failed"])
    assert "ILLEGAL" in stage.disks().values()


@pytest.mark.parametrize("flow", FLOWS)
def test_a_failover_of_the_spm_fails_what_was_running(
    stage: Stage, flow: str, tmp_path: Path
) -> None:
    other = SimulatorProcess(tmp_path / "vdsm", pools=[POOL], host_id=2)
    other.start()
    stage.simulators.append(other)
    with begun(stage, flow) as engine:

        async def fence(control: SimulatorControl) -> None:
            async with other.control() as new:
                await fail_over(control, new, POOL)

        stage.steer(fence)
        failed_as(stage, engine, ["failed", "failed"])
    assert ("ILLEGAL" in stage.disks().values()) == (flow == "remove-vm")


@pytest.mark.parametrize("flow", FLOWS)
def test_the_next_flow_works_on_the_same_vm_after_a_cancellation(stage: Stage, flow: str) -> None:
    with begun(stage, flow) as engine:
        vm_id = stage.one("select vm_id::text from pyatm_inventory.vm")
        cancel(stage, engine)
        assert engine.finish() == 0
    release(stage)
    with stage.engine("--flow", "remove-vm", "--vm", vm_id) as engine:
        assert engine.finish() == 0, engine.events
    settle_and_judge(stage)
    assert stage.one("select count(*) from pyatm_inventory.vm") == 0
