"""The hard cases of the design that need no concurrency."""

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


def test_a_reverted_task_that_vdsm_no_longer_lists_counts_as_reverted_and_cleared(
    world: World,
) -> None:
    root, _, vdsm = world.planned_and_bound(2)
    world.vdsm = {vdsm[0]: FINISHED, vdsm[1]: ROLLED_BACK}
    world.poll()
    (claim,) = world.claim()
    assert world.finish(claim["token"], disposition="revert") == "reverting"
    del world.vdsm[vdsm[0]]
    world.poll()
    assert world.state(root) == "ended"
    world.settle()
    assert world.live_rows() == 0


def test_one_poisoned_root_does_not_stop_the_report_of_the_others(world: World) -> None:
    bad, (bad_task,), (bad_vdsm,) = world.planned_and_bound(1)
    good, _, (good_vdsm,) = world.planned_and_bound(1)
    world.rows(
        "update atm_internal.root set open_tasks = 0 where root_no ="
        " (select root_no from atm_internal.command where command_id = %s)",
        bad,
    )
    world.vdsm = {bad_vdsm: FINISHED, good_vdsm: FINISHED}
    world.poll()
    assert world.state(good) == "ready"
    assert world.task(bad_task["task_id"])["state"] == "running"
    assert [r["root_command_id"] for r in world.rows("select * from atm.stuck")] == [bad]


def test_one_poisoned_root_does_not_stop_the_start_of_its_engine(world: World) -> None:
    bad = world.plan(world.document(1))[0]["root_command_id"]
    good = world.plan(world.document(1))[0]["root_command_id"]
    world.rows(
        "update atm_internal.root set open_tasks = 0 where root_no ="
        " (select root_no from atm_internal.command where command_id = %s)",
        bad,
    )
    world.epoch = world.start_engine()
    assert world.state(good) == "ready"
    assert [r["root_command_id"] for r in world.rows("select * from atm.stuck")] == [bad]
    assert [c["root_command_id"] for c in world.claim()] == [good]


def test_an_unknown_is_left_alone_while_a_live_engine_may_bind_it(world: World) -> None:
    (row,) = world.plan(world.document(1, submit=True))
    early = str(uuid.uuid4())
    world.vdsm[early] = FINISHED
    assert world.poll() == []
    world.bind(row["task_id"], early)
    world.poll()
    assert world.task(row["task_id"])["outcome"] == "succeeded"
    assert world.rows("select * from atm.orphans") == []


def test_a_suspect_that_binds_another_id_is_none_any_more(world: World) -> None:
    (row,) = world.plan(world.document(1, submit=True))
    stray = str(uuid.uuid4())
    world.vdsm[stray] = FINISHED
    world.poll()
    world.bind(row["task_id"])
    assert world.poll() == [], "another tool's task is only reported"


def test_a_doubt_is_settled_only_after_the_settle_time_and_the_polls(world: World) -> None:
    world.set(in_doubt_settle="1 hour", absence_polls=2)
    (row,) = world.plan(world.document(1, submit=True))
    task = row["task_id"]
    assert world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, task) == "in_doubt"
    world.settle(4)
    assert world.task(task)["state"] == "in_doubt"
    world.rows("update atm_internal.watch set since = since - interval '2 hours'")
    world.poll()
    assert world.task(task)["state"] == "in_doubt"
    world.lver += 1
    world.poll()
    assert world.task(task)["state"] == "in_doubt", "the polls of another SPM do not add up"
    world.poll()
    assert world.task(task)["outcome"] == "in_doubt"
    assert (world.root(row["root_command_id"]) or {})["outcome"] == "failed"


def test_a_doubtful_task_can_still_be_bound_by_the_same_engine(world: World) -> None:
    (row,) = world.plan(world.document(1, submit=True))
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    world.bind(row["task_id"])
    assert world.task(row["task_id"])["state"] == "running"


def test_a_repeated_bind_of_an_engine_that_was_replaced_is_told_so(world: World) -> None:
    (row,) = world.plan(world.document(1, submit=True))
    vdsm = world.bind(row["task_id"])
    old = world.epoch
    assert world.bind(row["task_id"], vdsm) == vdsm, "the same bind again is harmless"
    world.epoch = world.start_engine()
    assert world.bind(row["task_id"], vdsm) == vdsm
    with pytest.raises(psycopg.Error) as refusal:
        world.bind(row["task_id"], vdsm, epoch=old)
    assert refusal.value.sqlstate == "AT201"


def test_an_operators_word_on_a_doubt_does_not_free_compensation(world: World) -> None:
    vm = str(uuid.uuid4())
    world.set(in_doubt_settle="1 hour")
    (row,) = world.plan(world.document(1, submit=True, entities=[{"type": "VM", "id": vm}]))
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    world.one("select atm.resolve_task(%s, 'lost', 'enough', false)", row["task_id"])
    (claim,) = world.claim()
    world.finish(claim["token"])
    world.settle()
    assert world.one("select atm.can_compensate('VM', %s)", vm) is False
    world.rows("update atm_internal.watch set since = since - interval '2 hours'")
    world.settle()
    assert world.one("select atm.can_compensate('VM', %s)", vm) is True
    assert world.live_rows() == 0


def test_a_late_answer_of_a_task_that_an_operator_has_resolved_is_cleared(world: World) -> None:
    (row,) = world.plan(world.document(1, submit=True))
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    world.one("select atm.resolve_task(%s, 'lost', 'enough', false)", row["task_id"])
    world.vdsm[str(uuid.uuid4())] = FINISHED
    world.settle(2)
    assert world.vdsm == {}, "first listed by the poll that settled the doubt"


def test_unreadable_statuses_are_named_and_the_rest_is_applied(world: World) -> None:
    _, tasks, vdsm = world.planned_and_bound(2)
    world.vdsm = {vdsm[0]: {"taskState": "dreaming"}, vdsm[1]: FINISHED, "not-a-uuid": status()}
    world.poll()
    assert world.task(tasks[0]["task_id"])["state"] == "running"
    assert world.task(tasks[1]["task_id"])["outcome"] == "succeeded"
    (pool,) = world.rows("select * from atm.pools")
    assert sorted(pool["unreadable"]) == sorted([vdsm[0], "not-a-uuid"])


def test_a_clear_answered_401_counts_only_when_polls_confirm_it(world: World) -> None:
    world.set(absence_polls=2)
    root, _, (vdsm,) = world.planned_and_bound(1)
    world.vdsm[vdsm] = FINISHED
    world.poll()
    (claim,) = world.claim()
    world.finish(claim["token"])
    chores = world.poll()
    assert world.act(chores, ok=False, code=401) == 0
    assert world.state(root) == "ended"
    world.vdsm.clear()
    world.poll()
    assert world.state(root) == "ended"
    world.poll()
    assert world.state(root) is None


@pytest.mark.parametrize("change", ["vdsm_task_id = gen_random_uuid()", "outcome = 'failed'"])
def test_vdsms_id_and_the_outcome_are_written_once(world: World, change: str) -> None:
    _, (task,), (vdsm,) = world.planned_and_bound(1)
    world.vdsm[vdsm] = FINISHED
    world.poll()
    with pytest.raises(psycopg.Error) as refusal:
        world.rows(f"update atm_internal.task set {change}")
    assert refusal.value.sqlstate == "AT104"
    assert world.task(task["task_id"])["outcome"] == "succeeded"


def test_what_vdsm_says_after_the_end_changes_no_outcome(world: World) -> None:
    _, (task,), (vdsm,) = world.planned_and_bound(1)
    world.vdsm[vdsm] = FINISHED
    world.poll()
    world.vdsm[vdsm] = ROLLED_BACK
    world.poll()
    row = world.task(task["task_id"])
    assert (row["outcome"], row["vdsm_result"]) == ("succeeded", "cleanSuccess")


def test_an_unchanged_poll_writes_no_task_row(world: World) -> None:
    world.planned_and_bound(3)
    world.poll()
    before = world.rows("select task_id, xmin::text from atm_internal.task order by 1")
    world.poll()
    assert world.rows("select task_id, xmin::text from atm_internal.task order by 1") == before


def test_attempts_are_counted_over_expired_leases_and_end_in_end_failed(world: World) -> None:
    world.set(end_action_attempts=2)
    root, _, (vdsm,) = world.planned_and_bound(1)
    world.vdsm[vdsm] = FINISHED
    world.poll()
    (first,) = world.claim(lease="1 microsecond")
    (second,) = world.claim(lease="1 microsecond")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert world.claim() == []
    assert world.state(root) == "end_failed"
    assert world.one("select count(*) from atm.cancel_command(%s, 'by hand', false)", root) == 1
    world.settle()
    assert world.live_rows() == 0


def test_an_end_action_is_its_claimers_until_the_lease_or_the_engine_is_over(world: World) -> None:
    world.plan(world.document(0))
    (first,) = world.claim(lease="1 hour")
    assert world.claim() == [], "somebody has it"
    world.epoch = world.start_engine()
    (second,) = world.claim(lease="1 microsecond")
    (third,) = world.claim(lease="1 hour")
    assert [c["attempt"] for c in (first, second, third)] == [1, 2, 3]
    for stale in (first, second):
        with pytest.raises(psycopg.Error) as refusal:
            world.finish(stale["token"])
        assert refusal.value.sqlstate == "AT203"
    assert world.finish(third["token"]) == "ended"


def test_a_task_is_lost_only_after_it_has_been_missing_for_absence_time(world: World) -> None:
    world.set(absence_time="1 hour")
    _, (task,), _ = world.planned_and_bound(1)
    world.vdsm.clear()
    world.settle(4)
    assert world.task(task["task_id"])["state"] == "running"
    world.set(absence_time="0")
    world.poll()
    assert world.task(task["task_id"])["outcome"] == "lost"


def test_a_clear_that_is_reported_twice_counts_once(world: World) -> None:
    root, _, vdsm = world.planned_and_bound(2)
    world.vdsm = dict.fromkeys(vdsm, FINISHED)
    world.poll()
    (claim,) = world.claim()
    world.finish(claim["token"])
    twice = {"vdsm_task_id": vdsm[0], "action": "clear", "ok": True}
    actions = Jsonb([twice, {**twice, "code": 0}])
    world.one("select atm.report_actions(%s, %s, %s)", world.token, world.pool_id, actions)
    assert world.state(root) == "ended", "the other task is still there"


def test_a_doubt_waits_until_the_spm_has_been_there_for_absence_time(world: World) -> None:
    world.set(absence_time="1 hour")
    (row,) = world.plan(world.document(1, submit=True))
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    world.settle(4)
    assert world.task(row["task_id"])["state"] == "in_doubt", "it may not have loaded all tasks"
    world.set(absence_time="0")
    world.poll()
    assert world.task(row["task_id"])["outcome"] == "in_doubt"


def test_a_task_is_associated_with_what_each_command_above_it_names(world: World) -> None:
    disk = str(uuid.uuid4())
    document = world.document(1, submit=True)
    (below,) = document["children"]
    entities = [{"type": "Disk", "id": disk}]
    above = {"action_type": "RemoveDisk", "entities": entities, "children": [below]}
    (row,) = world.plan({**document, "children": [above]})
    found = world.rows("select task_id from atm.entity_tasks('Disk', %s)", disk)
    assert [r["task_id"] for r in found] == [row["task_id"]]
    assert world.one("select atm.can_compensate('Disk', %s)", disk) is False
