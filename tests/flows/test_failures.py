"""Every flow, when VDSM refuses, fails, cannot clean up, or does not answer."""

import pytest

from tests.flows.stage import Stage

FLOWS = ("remove-vm", "hibernate-vm", "create-template", "create-snapshot")
CREATE = "create"


def settled(stage: Stage, flow: str) -> tuple[list[str], set[str]]:
    """The outcomes of the tasks, and the states of the disks; nothing is left anywhere."""
    engine = stage.run(flow, "--disks", "3", "--answer-timeout", "1")
    stage.until_clean()
    ended = engine.all("ended")
    assert [each["outcome"] for each in ended] == ["failed"]
    assert [effect for _, effect in stage.effects()] == ["failed"]
    assert stage.one("select count(*) from pyatm_inventory.vm where state = 'OK'") == 1
    states = set(stage.disks().values())
    assert "LOCKED" not in states
    return ended[0]["tasks"], states


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


@pytest.mark.parametrize("flow", FLOWS)
def test_a_lost_answer_is_an_orphan_and_fails_the_command(stage: Stage, flow: str) -> None:
    stage.control("fault", "lose_answer", CREATE, skip=1)
    outcomes, states = settled(stage, flow)
    assert outcomes[:2] == ["succeeded", "in_doubt"]
    assert "ILLEGAL" in states


def test_a_refused_hibernation_reverts_the_volumes(stage: Stage) -> None:
    stage.control("fault", "refuse", "VM.hibernate")
    engine = stage.run("hibernate-vm", "--disks", "1")
    stage.until_clean()
    assert engine.all("ended")[0]["tasks"] == ["succeeded", "succeeded"]
    assert set(stage.disks().values()) == {"OK"}
    assert stage.one("select power from pyatm_inventory.vm") == "Up"


def test_a_late_answer_within_its_life_still_binds(stage: Stage) -> None:
    stage.control("fault", "delay_answer", "Image.delete", seconds=2.0)
    stage.db.execute("select atm.set_setting('in_doubt_settle', '30 s', 'test')")
    engine = stage.run("remove-vm", "--disks", "1", "--answer-timeout", "0.5")
    seen = [each["event"] for each in engine.events]
    assert seen.index("doubted") < seen.index("late_bound")
    stage.until_clean()
    assert engine.all("ended")[0]["tasks"] == ["succeeded"]


def test_a_second_flow_on_the_vm_is_refused_with_the_holder_named(stage: Stage) -> None:
    stage.control("default_job", None)
    with stage.engine("--flow", "create-snapshot", "--disks", "1") as first:
        vm_id = first.until("vm")["vm_id"]
        command = first.until("planned")["command_id"]
        first.until("submitted")
        with stage.engine("--flow", "remove-vm", "--vm", vm_id, "--engine", "other") as second:
            assert second.finish() == 4
            message = second.all("error")[0]["message"]
        assert command in message
        assert "CreateSnapshotForVm" in message
        stage.control("default_job", 0.05)
        stage.control("finish")
        assert first.finish() == 0
    stage.until_clean()


def test_two_templates_of_one_vm_are_made_side_by_side(stage: Stage) -> None:
    stage.control("default_job", None)
    with stage.engine("--flow", "create-template", "--disks", "1") as first:
        vm_id = first.until("vm")["vm_id"]
        first.until("submitted")
        options = ("--flow", "create-template", "--vm", vm_id, "--engine", "other")
        with stage.engine(*options) as second:
            second.until("submitted")
            assert len(stage.at_vdsm()) == 2
            stage.control("finish", second.all("bound")[0]["vdsm_task_id"])
            assert second.finish() == 0
            assert first.all("ended") == []
        stage.control("finish")
        assert first.finish() == 0
    stage.until_clean()
    assert stage.one("select count(*) from pyatm_inventory.template where state = 'OK'") == 2


def test_a_fenced_engine_stops(stage: Stage) -> None:
    stage.control("default_job", None)
    with stage.engine("--flow", "remove-vm", "--disks", "1") as old:
        old.until("submitted")
        with stage.engine() as new:
            new.until("started")
            stage.control("finish")
            assert old.finish() == 3
            assert new.finish() == 0
            assert new.all("ended")[0]["outcome"] == "succeeded"
    stage.until_clean()
    assert len(stage.effects()) == 1
