"""The checker complains about every kind of doctored history, and not about a sound one."""

from dataclasses import replace
from typing import Any

import pytest

from pyatm.simulator.execution_log import ExecutionEvent
from tests.crash.checker import check
from tests.crash.evidence import (
    Claim,
    Compensable,
    Effect,
    Ended,
    EndedTask,
    Evidence,
    Left,
    Planned,
    PlannedTask,
    Refusal,
    StaleAttempt,
    Start,
    Write,
)

DISK, VM = ("Disk", "d1"), ("VM", "v1")


def event(time: float, event: str, task: str, **details: Any) -> ExecutionEvent:
    return ExecutionEvent(time, event, 1, "pool", task, details)


def life(task: str, ours: str, begin: float, end: float) -> list[ExecutionEvent]:
    """A VDSM task that succeeds and is cleared."""
    return [
        event(begin, "created", task, correlation_id=ours, verb="deleteImage", params={}),
        event(begin, "started", task),
        event(end, "work_done", task),
        event(end, "finished", task, result="success"),
        event(end + 3, "cleared", task),
    ]


def reverted(task: str, begin: float) -> tuple[ExecutionEvent, ...]:
    return (
        event(begin, "revert_requested", task),
        event(begin + 0.1, "rolled_back", task, succeeded=True),
        event(begin + 0.2, "finished", task, result="cleanSuccess"),
    )


def command(root: str, at: float, **changes: Any) -> Planned:
    task = PlannedTask(f"{root}-t", frozenset({DISK, VM}))
    return replace(
        Planned(root, "engine", 5, at, (task,), {DISK: "exclusive", VM: "shared"}), **changes
    )


def over(root: str, at: float, task_outcome: str = "succeeded", **changes: Any) -> Ended:
    task = EndedTask(f"{root}-t", task_outcome, f"{root}-v", at - 8, at)
    ended = Ended(root, "succeeded", aborted=False, archived_at=at, tasks=(task,))
    return replace(ended, **changes)


SOUND = Evidence(
    planned={"a": command("a", 100.0), "b": command("b", 110.0)},
    ended={"a": over("a", 109.5), "b": over("b", 119.5)},
    effects=(Effect("a", 11, "succeeded", 106.0), Effect("b", 21, "succeeded", 116.0)),
    starts=(Start("engine", 5, 90.0), Start("engine", 15, 120.0), Start("other", 7, 91.0)),
    writes=(Write("bind_task", "engine", 5, 101.0), Write("bind_task", "other", 7, 121.0)),
    stale=(StaleAttempt("bind_task", "AT201"), StaleAttempt("report_poll", "AT202")),
    claims=(
        Claim("a", 11, "succeeded", ("succeeded",), 5),
        Claim("b", 20, "succeeded", ("succeeded",), 5),
        Claim("b", 21, "succeeded", ("succeeded",), 5),
    ),
    refusals=(Refusal(103.0, {DISK: "shared"}, ("a",)),),
    compensable=(Compensable(DISK, 107.0, 107.0),),
    sent={"a-t": 101.0, "b-t": 111.0},
    freed={"a": 106.2, "b": 116.2},
    executed=(*life("a-v", "a-t", 101.5, 105.0), *life("b-v", "b-t", 111.5, 115.0)),
)


def doctored(**changes: Any) -> Evidence:
    return replace(SOUND, **changes)


def without(name: str, task: str = "a-v") -> tuple[ExecutionEvent, ...]:
    return tuple(e for e in SOUND.executed if (e.event, e.task_id) != (name, task))


def test_a_sound_history_is_not_complained_about() -> None:
    assert check(SOUND) == []


CASES: dict[str, tuple[int, str, Evidence]] = {
    "a task of a succeeded command was not executed": (
        1,
        "succeeded, but VDSM's task a-v",
        doctored(executed=without("work_done")),
    ),
    "a task succeeded although VDSM never ended it": (
        1,
        "succeeded, but VDSM's task a-v",
        doctored(executed=without("finished")),
    ),
    "a task succeeded although VDSM rolled it back": (
        1,
        "succeeded, but VDSM's task a-v",
        doctored(executed=(*SOUND.executed, event(105.1, "rolled_back", "a-v", succeeded=True))),
    ),
    "VDSM never had the task": (
        1,
        "succeeded, but VDSM's task a-v is None",
        doctored(executed=life("b-v", "b-t", 111.5, 115.0)),
    ),
    "a succeeded command lacks a planned task": (
        1,
        "without its planned tasks {'a-u'}",
        doctored(
            planned={
                **SOUND.planned,
                "a": command("a", 100.0, tasks=(PlannedTask("a-t"), PlannedTask("a-u"))),
            }
        ),
    ),
    "a command succeeded with a failed task": (
        1,
        "its tasks ['failed']",
        doctored(
            ended={**SOUND.ended, "a": over("a", 109.5, "failed")},
        ),
    ),
    "an aborted command succeeded": (
        1,
        "aborted True",
        doctored(ended={**SOUND.ended, "a": over("a", 109.5, aborted=True)}),
    ),
    "a command failed although everything succeeded": (
        1,
        "failed, aborted False",
        doctored(ended={**SOUND.ended, "a": over("a", 109.5, outcome="failed")}),
    ),
    "two tasks have exchanged their ids": (
        1,
        "bound to VDSM's task of other",
        doctored(
            executed=(
                *life("a-v", "other", 101.5, 105.0),
                *life("b-v", "b-t", 111.5, 115.0),
            )
        ),
    ),
    "an endAction was offered twice with one token": (
        2,
        "with the same token",
        doctored(claims=(*SOUND.claims, SOUND.claims[0])),
    ),
    "one token was given out for two commands": (
        2,
        "given out twice",
        doctored(claims=(*SOUND.claims, Claim("b", 11, "succeeded", ("succeeded",), 5))),
    ),
    "an older token took effect": (
        2,
        "although [21] are newer",
        doctored(effects=(SOUND.effects[0], replace(SOUND.effects[1], token=20))),
    ),
    "an endAction was offered with an open task": (
        2,
        "open tasks",
        doctored(claims=(Claim("a", 11, "failed", ("succeeded", None), 5),)),
    ),
    "an endAction was offered as succeeded with a lost task": (
        2,
        "offered as succeeded",
        doctored(claims=(Claim("a", 11, "succeeded", ("lost",), 5),)),
    ),
    "an effect happened twice": (
        2,
        "2 effects instead of 1",
        doctored(effects=(*SOUND.effects, SOUND.effects[0])),
    ),
    "an effect is missing": (2, "0 effects", doctored(effects=SOUND.effects[1:])),
    "an effect of nothing": (
        2,
        "never planned",
        doctored(effects=(*SOUND.effects, Effect("x", 30, "failed", 107.0))),
    ),
    "an effect is that of another outcome": (
        2,
        "its effect was failed",
        doctored(effects=(replace(SOUND.effects[0], outcome="failed"), SOUND.effects[1])),
    ),
    "a command has vanished": (3, "vanished", doctored(ended={"b": SOUND.ended["b"]})),
    "a command is live and over": (
        3,
        "live and in the history",
        doctored(left=Left(live_roots=frozenset({"a"}), named=frozenset({"a"}))),
    ),
    "a history row without a plan": (
        3,
        "never committed",
        doctored(ended={**SOUND.ended, "x": over("x", 100.0, tasks=())}),
    ),
    "a task left the live tables before VDSM forgot it": (
        3,
        "after the end",
        doctored(ended={**SOUND.ended, "a": over("a", 107.5)}),
    ),
    "a task left the live tables uncleared": (
        3,
        "never cleared",
        doctored(
            ended={
                **SOUND.ended,
                "a": over("a", 109.5, tasks=(EndedTask("a-t", "succeeded", "a-v", 101.0),)),
            }
        ),
    ),
    "two commands held an entity": (
        4,
        "held by a and by b at once",
        doctored(planned={**SOUND.planned, "b": command("b", 105.0)}),
    ),
    "an entity was free while VDSM still reverted a task": (
        4,
        "held by a and by b at once",
        doctored(executed=(*SOUND.executed, *reverted("a-v", 111.0))),
    ),
    "a command held what one without an end holds": (
        4,
        "held by a and by b at once",
        doctored(effects=SOUND.effects[1:]),
    ),
    "a refusal named a command that had ended": (
        4,
        "after it had ended",
        doctored(refusals=(Refusal(107.0, {DISK: "shared"}, ("a",)),)),
    ),
    "a refusal named a command that does not conflict": (
        4,
        "does not hold it like that",
        doctored(refusals=(Refusal(103.0, {VM: "shared"}, ("a",)),)),
    ),
    "a refusal named nobody we know": (
        4,
        "never planned",
        doctored(refusals=(Refusal(103.0, {VM: "exclusive"}, ("x",)),)),
    ),
    "a stale lease was taken": (
        5,
        "answered done",
        doctored(stale=(StaleAttempt("report_poll", "done"),)),
    ),
    "a fenced engine wrote": (
        5,
        "done with epoch 5 after 15",
        doctored(writes=(Write("bind_task", "engine", 5, 121.0),)),
    ),
    "a fenced engine bound a task": (
        5,
        "bound by an incarnation that was fenced",
        doctored(starts=(Start("engine", 5, 90.0), Start("engine", 15, 101.0))),
    ),
    "a fenced engine's endAction took effect": (
        5,
        "with a claim of epoch 5",
        doctored(starts=(Start("engine", 5, 90.0), Start("engine", 15, 105.9))),
    ),
    "two incarnations have one epoch": (
        5,
        "same epoch",
        doctored(starts=(*SOUND.starts, Start("engine", 15, 125.0))),
    ),
    "compensation was allowed while VDSM worked": (
        6,
        "was allowed at 104.000",
        doctored(compensable=(Compensable(DISK, 104.0, 104.0),)),
    ),
    "compensation was allowed before a task was born late": (
        6,
        "was allowed at 101.200",
        doctored(compensable=(Compensable(DISK, 101.2, 101.2),)),
    ),
    "an endAction compensated while VDSM worked": (
        6,
        "was allowed at 104.500",
        doctored(
            effects=(
                replace(SOUND.effects[0], at=104.5, compensated=frozenset({VM})),
                SOUND.effects[1],
            ),
        ),
    ),
    "a task of a compensated command was born late": (
        6,
        "was allowed at 101.200",
        doctored(
            effects=(
                replace(SOUND.effects[0], at=101.2, compensated=frozenset({VM})),
                SOUND.effects[1],
            ),
            sent={},
        ),
    ),
    "a command does not end": (
        7,
        "atm.stuck does not name it",
        doctored(
            ended={"b": SOUND.ended["b"]},
            effects=SOUND.effects[1:],
            planned={**SOUND.planned, "a": command("a", 100.0, holds={})},
            left=Left(live_roots=frozenset({"a"})),
        ),
    ),
    "a row is left": (7, "left in a live view", doctored(left=Left(live=("atm.orphans: x",)))),
    "a task is left at VDSM": (7, "left at VDSM", doctored(left=Left(at_vdsm=("host 1: x",)))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_checker_complains(name: str) -> None:
    invariant, words, evidence = CASES[name]
    found = check(evidence)
    assert any(v.invariant == invariant and words in str(v) for v in found), found


def test_a_command_that_stuck_names_is_no_violation() -> None:
    left = Left(live=("a row",), live_roots=frozenset({"a"}), named=frozenset({"a"}))
    waiting = doctored(ended={"b": SOUND.ended["b"]}, effects=SOUND.effects[1:], left=left)
    planned = {**SOUND.planned, "a": command("a", 100.0, holds={})}
    waiting = replace(waiting, planned=planned, refusals=())
    assert check(waiting) == []


def test_what_was_not_announced_yet_needs_no_compensation() -> None:
    assert (
        check(
            doctored(compensable=(Compensable(DISK, 100.5, 100.5), Compensable(DISK, 110.5, 110.5)))
        )
        == []
    )


def test_a_revert_after_the_end_does_not_undo_the_success() -> None:
    assert check(doctored(executed=(*SOUND.executed, *reverted("a-v", 107.0)))) == []


def test_who_reverts_may_refuse_others_after_its_end_action() -> None:
    """The finishing transaction left it reverting: nothing says when it was free."""
    refusal = Refusal(107.0, {DISK: "shared"}, ("a",))
    assert check(doctored(freed={"b": 116.2}, refusals=(refusal,))) == []
