"""Every flow, when nothing goes wrong."""

import pytest

from tests.flows.stage import Stage

TASKS = {"remove-vm": 3, "hibernate-vm": 2, "create-template": 3, "create-snapshot": 5}


@pytest.mark.parametrize("flow", TASKS)
def test_a_flow_succeeds_and_leaves_nothing_behind(stage: Stage, flow: str) -> None:
    engine = stage.run(flow, "--disks", "3", *(["--memory"] if "snapshot" in flow else []))
    ended = engine.until("ended") if not engine.all("ended") else engine.all("ended")[0]
    assert ended["outcome"] == "succeeded"
    assert ended["tasks"] == ["succeeded"] * TASKS[flow]
    stage.until_clean()
    assert len(stage.executed()) == TASKS[flow]
    assert [effect for _, effect in stage.effects()] == ["succeeded"]
    assert stage.one("select count(*) from atm.history") > 0
    states = set(stage.disks().values())
    if flow == "remove-vm":
        assert states == set()
        assert stage.one("select count(*) from pyatm_inventory.vm") == 0
    else:
        assert states == {"OK"}
        assert stage.one("select state from pyatm_inventory.vm") == "OK"
