"""The life of commands through the functions of schema atm."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from .world import FINISHED, ROLLED_BACK, World, status


@pytest.fixture
def world(db: psycopg.Connection[Any]) -> World:
    return World(db).start()


def test_a_command_of_four_tasks_ends_with_success_and_leaves_no_live_row(world: World) -> None:
    root, tasks, vdsm = world.planned_and_bound(4)
    assert [t["state"] for t in tasks] == ["submitting"] * 4
    assert world.state(root) == "sealed"
    assert world.poll() == []
    for vdsm_id in vdsm:
        world.vdsm[vdsm_id] = FINISHED
    assert world.poll() == []
    assert world.state(root) == "ready"
    (claim,) = world.claim()
    assert (claim["root_command_id"], claim["outcome"], claim["attempt"]) == (root, "succeeded", 1)
    assert claim["parameters"] == {"vm": "v1"}
    assert [t["parameters"] for t in claim["tasks"]] == [{"disk": n} for n in range(4)]
    assert [t["outcome"] for t in claim["tasks"]] == ["succeeded"] * 4
    assert world.finish(claim["token"]) == "ended"
    chores = world.poll()
    assert sorted(str(c["vdsm_task_id"]) for c in chores) == sorted(vdsm)
    assert {c["action"] for c in chores} == {"clear"}
    assert world.act(chores) == 4
    assert world.live_rows() == 0
    over = world.history(root)
    assert over["outcome"] == "succeeded"
    assert [t["vdsm_result"] for t in over["tasks"]] == ["success"] * 4


def test_an_engine_restart_after_two_of_four_fails_the_command_and_follows_the_two(
    world: World,
) -> None:
    rows = world.plan(world.document(4))
    ids = [r["task_id"] for r in rows]
    world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, ids[:1])
    world.bind(ids[0], None, ids[1])
    world.bind(ids[1], None, ids[2])
    assert world.task(ids[2])["state"] == "submitting"
    new = world.start_engine()
    assert [world.task(i)["state"] for i in ids] == ["running", "running", "in_doubt", "done"]
    assert world.task(ids[3])["outcome"] == "not_submitted"
    with pytest.raises(psycopg.Error) as refused:
        world.bind(ids[2])
    assert refused.value.sqlstate == "AT201"
    # VDSM has the third one, whose answer was lost.
    lost = str(uuid.uuid4())
    world.vdsm[lost] = status()
    world.settle()
    assert world.task(ids[2])["state"] == "in_doubt", "an unfinished unknown may be it"
    for vdsm_id in world.vdsm:
        world.vdsm[vdsm_id] = FINISHED
    world.settle()
    assert world.task(ids[2])["outcome"] == "in_doubt"
    (claim,) = world.claim(new)
    assert claim["outcome"] == "failed"
    assert world.finish(claim["token"]) == "ended"
    world.settle()
    assert world.live_rows() == 0
    assert world.vdsm == {}
    assert world.rows("select * from atm.orphans") == []


def test_a_command_whose_tasks_are_all_bound_succeeds_over_a_restart(world: World) -> None:
    root, _, vdsm = world.planned_and_bound(4)
    world.epoch = world.start_engine()
    for vdsm_id in vdsm:
        world.vdsm[vdsm_id] = FINISHED
    world.poll()
    (claim,) = world.claim()
    assert (claim["root_command_id"], claim["outcome"]) == (root, "succeeded")
    world.finish(claim["token"])
    world.settle()
    assert world.live_rows() == 0


def test_a_rolled_back_task_fails_its_command(world: World) -> None:
    root, _, vdsm = world.planned_and_bound(2)
    world.vdsm[vdsm[0]] = FINISHED
    world.vdsm[vdsm[1]] = ROLLED_BACK
    world.poll()
    assert (world.root(root) or {})["outcome"] == "failed"


def test_the_same_plan_again_returns_the_stored_rows_and_another_is_refused(world: World) -> None:
    document = world.document(2)
    first = world.plan(document)
    assert world.plan(document) == first
    document["children"][1]["action_type"] = "Other"
    with pytest.raises(psycopg.Error) as refused:
        world.plan(document)
    assert refused.value.sqlstate == "AT101"
    assert "plan.children[1].action_type" in (refused.value.diag.message_detail or "")


def test_reverting_holds_the_entities_until_vdsm_has_reverted(world: World) -> None:
    disk = str(uuid.uuid4())
    root, _, vdsm = world.planned_and_bound(
        2, entities=[{"type": "VM", "id": disk, "access": "exclusive"}]
    )
    world.vdsm[vdsm[0]] = FINISHED
    world.vdsm[vdsm[1]] = ROLLED_BACK
    world.poll()
    (claim,) = world.claim()
    assert world.finish(claim["token"], disposition="revert") == "reverting"
    assert world.one("select atm.can_compensate('VM', %s)", disk) is False
    chores = world.poll()
    assert [(c["action"], str(c["vdsm_task_id"])) for c in chores] == [("revert", vdsm[0])]
    assert len(world.rows("select * from atm.entity_tasks('VM', %s)", disk)) == 2
    world.act(chores)
    assert world.state(root) == "ended"
    world.settle()
    assert world.live_rows() == 0
    assert world.vdsm == {}


def test_a_task_that_vdsm_does_not_list_is_lost_after_the_polls_of_one_spm_incarnation(
    world: World,
) -> None:
    world.set(absence_polls=3)
    root, (task,), (_vdsm,) = world.planned_and_bound(1)
    world.vdsm.clear()
    world.poll()
    world.poll()
    world.lver += 1
    world.poll()
    world.poll()
    assert world.task(task["task_id"])["state"] == "running", (
        "the count began anew with the other SPM"
    )
    world.poll()
    assert world.task(task["task_id"])["outcome"] == "lost"
    assert world.state(root) == "ready"


def test_a_listing_asked_for_before_the_bind_says_nothing_about_the_task(world: World) -> None:
    started = world.now()
    _, (task,), _ = world.planned_and_bound(1)
    world.poll({}, started=started)
    assert world.task(task["task_id"])["state"] == "running"


def test_a_failed_listing_and_an_older_report_change_nothing(world: World) -> None:
    _, (task,), _ = world.planned_and_bound(1)
    early = world.now()
    world.poll()
    world.poll(None)
    world.poll({}, started=early)
    assert world.task(task["task_id"])["state"] == "running"


def test_an_abort_ends_planned_tasks_and_stops_running_ones(world: World) -> None:
    rows = world.plan(world.document(2))
    ids = [r["task_id"] for r in rows]
    world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, ids[:1])
    vdsm = world.bind(ids[0])
    root = rows[0]["root_command_id"]
    assert (
        world.one("select atm.abort_command(%s, %s, 'no more', true)", world.epoch, root)
        == "sealed"
    )
    assert world.task(ids[1])["outcome"] == "not_submitted"
    chores = world.poll()
    assert [c["action"] for c in chores] == ["stop"]
    world.act(chores)
    assert world.poll() == [], "the stop is not asked for again"
    world.vdsm[vdsm] = status(
        "finished", "cleanSuccess", 411, "value=shutting down abortedcode=411"
    )
    world.poll()
    assert (world.root(root) or {})["outcome"] == "failed"


def test_tasks_can_be_added_until_the_command_is_sealed(world: World) -> None:
    document = world.document(1, seal=False)
    (first,) = world.plan(document)
    root = first["root_command_id"]
    addition = {"children": world.document(2)["children"]}
    added = world.rows(
        "select * from atm.add_tasks(%s, %s, %s)", world.epoch, root, Jsonb(addition)
    )
    assert len(added) == 2
    assert (
        world.rows("select * from atm.add_tasks(%s, %s, %s)", world.epoch, root, Jsonb(addition))
        == added
    )
    assert world.one("select atm.seal_command(%s, %s)", world.epoch, root) == "sealed"
    with pytest.raises(psycopg.Error) as refused:
        world.rows(
            "select * from atm.add_tasks(%s, %s, %s)",
            world.epoch,
            root,
            Jsonb({"children": world.document(1)["children"]}),
        )
    assert refused.value.sqlstate == "AT103"
    for row in [first, *added]:
        world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, [row["task_id"]])
        world.vdsm[world.bind(row["task_id"])] = FINISHED
    world.poll()
    (claim,) = world.claim()
    assert [t["parameters"] for t in claim["tasks"]] == [{"disk": 0}, {"disk": 0}, {"disk": 1}]


def test_an_end_action_that_gives_up_waits_for_an_operator(world: World) -> None:
    root, _, (vdsm,) = world.planned_and_bound(1)
    world.vdsm[vdsm] = FINISHED
    world.poll()
    (claim,) = world.claim()
    assert world.finish(claim["token"], "give_up", message="inventory is down") == "end_failed"
    with pytest.raises(psycopg.Error) as stale:
        world.finish(claim["token"])
    assert stale.value.sqlstate == "AT203"
    assert world.claim() == []
    assert [r["turn"] for r in world.rows("select * from atm.stuck")] == ["operator"]
    assert world.one("select atm.retry_end_action(%s, 'fixed', false)", root) == "ready"
    (again,) = world.claim()
    assert world.finish(again["token"]) == "ended"


def test_two_commands_exclude_each_other_by_their_access(world: World) -> None:
    vm = str(uuid.uuid4())
    shared = [{"type": "VM", "id": vm}]
    exclusive = [{"type": "VM", "id": vm, "access": "exclusive"}]
    world.plan(world.document(1, entities=shared))
    (holder, *_) = world.plan(world.document(1, entities=shared))
    assert holder
    with pytest.raises(psycopg.Error) as busy:
        world.plan(world.document(1, entities=exclusive))
    assert busy.value.sqlstate == "AT301"
    assert vm in (busy.value.diag.message_detail or "")
    assert world.plan(
        world.document(1, entities=[{"type": "Disk", "id": vm, "access": "exclusive"}])
    )


def test_an_operator_resolves_a_task_and_compensation_waits_for_vdsm(world: World) -> None:
    disk = str(uuid.uuid4())
    root, (task,), (vdsm,) = world.planned_and_bound(
        1, entities=[{"type": "VM", "id": disk, "access": "exclusive"}]
    )
    world.poll()
    assert (
        world.one("select atm.resolve_task(%s, 'failed', 'hung', false)", task["task_id"])
        == "done: failed"
    )
    assert world.state(root) == "ready"
    assert world.one("select atm.can_compensate('VM', %s)", disk) is False
    (claim,) = world.claim()
    assert claim["outcome"] == "failed"
    assert world.finish(claim["token"]) == "ended"
    assert world.one("select atm.can_compensate('VM', %s)", disk) is False
    assert world.plan(
        world.document(1, entities=[{"type": "VM", "id": disk, "access": "exclusive"}])
    ), "free again"
    world.vdsm[vdsm] = ROLLED_BACK
    world.settle()
    assert world.state(root) is None
    assert world.history(root)["outcome"] == "failed"


def test_a_ghost_of_a_cleared_task_is_cleared_again(world: World) -> None:
    _, _, (vdsm,) = world.planned_and_bound(1)
    world.vdsm[vdsm] = FINISHED
    world.poll()
    (claim,) = world.claim()
    world.finish(claim["token"])
    world.settle()
    assert world.vdsm == {}
    world.vdsm[vdsm] = FINISHED
    chores = world.poll()
    assert [(c["task_id"], c["action"]) for c in chores] == [(None, "clear")]


def test_another_tools_task_is_only_reported(world: World) -> None:
    stray = str(uuid.uuid4())
    world.vdsm[stray] = FINISHED
    assert world.poll() == []
    assert [str(o["vdsm_task_id"]) for o in world.rows("select * from atm.orphans")] == [stray]
    world.set(orphan_policy="all")
    assert [str(c["vdsm_task_id"]) for c in world.poll()] == [stray]
