"""Every flow, when nothing goes wrong."""

import pytest

from tests.flows.agreement import settle_and_judge
from tests.flows.stage import Stage

TASKS = {"remove-vm": 3, "hibernate-vm": 2, "create-template": 3, "create-snapshot": 5}


@pytest.mark.parametrize("flow", TASKS)
def test_a_flow_succeeds_and_leaves_nothing_behind(stage: Stage, flow: str) -> None:
    options = ["--memory"] if flow == "create-snapshot" else []
    engine = stage.run(flow, *options, disks=3)
    ended = engine.all("ended")[0]
    assert ended["outcome"] == "succeeded"
    assert ended["tasks"] == ["succeeded"] * TASKS[flow]
    settle_and_judge(stage)
    assert stage.executed() == TASKS[flow]
    states = set(stage.disks().values())
    if flow == "remove-vm":
        assert states == set()
        assert stage.one("select count(*) from pyatm_inventory.vm") == 0
        assert stage.made == stage.removed_images()
    else:
        assert states == {"OK"}
        assert stage.one("select state from pyatm_inventory.vm") == "OK"


def test_the_engine_makes_its_own_vm_when_none_is_given(stage: Stage) -> None:
    with stage.engine("--flow", "remove-vm", "--disks", "2") as engine:
        assert engine.finish() == 0
    assert len(engine.all("vm")[0]["disk_ids"]) == 2
    assert engine.all("ended")[0]["tasks"] == ["succeeded"] * 2
    settle_and_judge(stage)
