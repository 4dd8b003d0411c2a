"""Every flow, when VDSM refuses, fails, cannot clean up, or does not answer."""

import pytest

from tests.flows.agreement import settle_and_judge
from tests.flows.stage import Stage

FLOWS = ("remove-vm", "hibernate-vm", "create-template", "create-snapshot")
CREATE = "create"


def settled(stage: Stage, flow: str) -> tuple[list[str], set[str]]:
    """The outcomes of the tasks, and the states of the disks; nothing is left anywhere."""
    engine = stage.run(flow, "--answer-timeout", "3", disks=3)
    settle_and_judge(stage)
    ended = engine.all("ended")
    assert [each["outcome"] for each in ended] == ["failed"]
    assert stage.one("select state from pyatm_inventory.vm") == "OK"
    return ended[0]["tasks"], set(stage.disks().values())


@pytest.mark.parametrize("flow", FLOWS)
def test_a_refused_task_ends_the_command_and_the_rest_is_never_sent(
    stage: Stage, flow: str
) -> None:
    stage.control("fault", "refuse", CREATE, skip=1)
    outcomes, states = settled(stage, flow)
    assert outcomes[:2] == ["succeeded", "failed"]
    assert set(outcomes[2:]) <= {"not_submitted"}
    assert states == {"OK"}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_failed_job_fails_the_command(stage: Stage, flow: str) -> None:
    stage.control("job", 0.05, count=1, failure={"code": 205})
    outcomes, states = settled(stage, flow)
    assert outcomes.count("failed") == 1
    assert outcomes.count("succeeded") == len(outcomes) - 1
    # A deletion that failed cannot be undone; a creation was rolled back.
    assert ("ILLEGAL" in states) == (flow == "remove-vm")


@pytest.mark.parametrize("flow", FLOWS)
def test_what_could_not_be_cleaned_up_is_illegal(stage: Stage, flow: str) -> None:
    stage.control("job", 0.05, count=1, failure={"code": 205}, rollback_fails=True)
    outcomes, states = settled(stage, flow)
    assert outcomes.count("failed") == 1
    assert "ILLEGAL" in states


@pytest.mark.parametrize("flow", FLOWS[1:])
def test_a_volume_that_could_not_be_taken_back_is_illegal(stage: Stage, flow: str) -> None:
    # The first task succeeds and is to be reverted, which fails; the second one is refused.
    stage.control("fault", "refuse", CREATE, skip=1)
    stage.control("job", 0.05, count=1, rollback_fails=True)
    outcomes, states = settled(stage, flow)
    assert outcomes[:2] == ["succeeded", "failed"]
    assert "ILLEGAL" in states


@pytest.mark.parametrize("flow", FLOWS[1:])
def test_a_disk_is_locked_until_vdsm_has_taken_its_volume_back(stage: Stage, flow: str) -> None:
    stage.control("fault", "refuse", CREATE, skip=1)
    reverts = stage.control("fault", "refuse", "Task.revert", count=None)
    with stage.begin(flow) as engine:
        engine.until("ended")
        stage.until(lambda: stage.control("fault_used", reverts) > 1, "VDSM refuses to revert")
        assert stage.one("select state from atm.commands limit 1") == "reverting"
        assert "LOCKED" in stage.disks().values()
        stage.control("remove_fault", reverts)
        engine.until("reverted")
        assert engine.finish() == 0
    settle_and_judge(stage)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_lost_answer_is_an_orphan_and_fails_the_command(stage: Stage, flow: str) -> None:
    stage.control("fault", "lose_answer", CREATE, skip=1)
    outcomes, states = settled(stage, flow)
    assert outcomes[:2] == ["succeeded", "in_doubt"]
    assert "ILLEGAL" in states


def test_a_refused_hibernation_reverts_the_volumes(stage: Stage) -> None:
    stage.control("fault", "refuse", "VM.hibernate")
    engine = stage.run("hibernate-vm")
    settle_and_judge(stage)
    assert engine.all("ended")[0]["tasks"] == ["succeeded", "succeeded"]
    assert set(stage.disks().values()) == {"OK"}
    assert stage.one("select power from pyatm_inventory.vm") == "Up"


def test_a_late_answer_within_its_life_still_binds(stage: Stage) -> None:
    stage.control("fault", "delay_answer", "Image.delete", seconds=2.0)
    stage.db.execute("select atm.set_setting('in_doubt_settle', '30 s', 'test')")
    engine = stage.run("remove-vm", "--answer-timeout", "0.5", disks=1)
    seen = [each["event"] for each in engine.events]
    assert seen.index("doubted") < seen.index("late_bound")
    settle_and_judge(stage)
    assert engine.all("ended")[0]["tasks"] == ["succeeded"]


def test_a_vm_that_was_not_removed_whole_can_be_removed_again(stage: Stage) -> None:
    stage.control("job", 0.05, count=1, failure={"code": 205})
    vm_id = stage.add_vm(2)
    for outcome in ("failed", "succeeded"):
        with stage.engine("--flow", "remove-vm", "--vm", vm_id) as engine:
            assert engine.finish() == 0
        assert engine.all("ended")[0]["outcome"] == outcome
        settle_and_judge(stage)
    assert stage.one("select count(*) from pyatm_inventory.vm") == 0


def test_waiting_until_compensation_is_possible_uses_up_no_attempts(stage: Stage) -> None:
    stage.db.execute("select atm.set_setting('end_action_attempts', '1', 'test')")
    stage.control("default_job", None)
    with stage.begin("create-snapshot", "--compensation-pause", "0.2", disks=1) as engine:
        engine.until("submitted")
        task = stage.one("select task_id from atm.tasks")
        stage.db.execute("select atm.resolve_task(%s, 'failed', 'test', false)", [task])
        # VDSM goes on: nothing may be compensated, however long it takes.
        for _ in range(3):
            assert engine.until("retried")["reason"] == "postpone"
        assert set(stage.disks().values()) == {"LOCKED"}
        stage.control("finish")
        assert engine.until("ended")["outcome"] == "failed"
        assert engine.finish() == 0
    stage.until_clean()
    assert stage.one("select attempts from atm.history") == 1
    notes = (
        "select count(*) from atm.history, jsonb_array_elements(notes) n where n ->> 'event' = %s"
    )
    assert stage.one(notes, "endAction postpone") == 1
