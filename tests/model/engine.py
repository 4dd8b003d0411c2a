"""What engines and operators do: plan, announce, send, bind, doubt, claim, finish, start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .database import (
    ANNOUNCED,
    fence,
    finish_task,
    no_longer_suspect,
    settle_roots,
    take_back,
)
from .search import Step
from .state import CURRENT, DEAD, OLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scenario import Scenario
    from .state import World


def alive(world: World, owner: str) -> bool:
    """The process that planned a root still runs."""
    return (owner == CURRENT and world.engine) or (owner == OLD and world.old)


def plan(world: World, scenario: Scenario) -> Iterator[Step]:
    """plan_command: all placeholders in one transaction."""
    for number, root in enumerate(world.roots):
        if root.state != "unplanned":
            continue
        owners = [CURRENT] if world.engine else []
        if world.old and "no_epoch_on_plan" in scenario.flaws:
            owners.append(OLD)
        for owner in owners:
            after = world.root(number, state="live", owner=owner)
            for index, task in enumerate(world.tasks):
                if task.root == number:
                    after = after.task(index, state="planned")
            yield Step(f"plan r{number}" + (" late" if owner == OLD else ""), False, after)


def announce_and_send(world: World, scenario: Scenario) -> Iterator[Step]:
    """submit_tasks, then the create verb, within the submit window."""
    flaws = scenario.flaws
    for index, task in enumerate(world.tasks):
        if task.root < 0 or task.state not in ("planned", *ANNOUNCED, "done"):
            continue
        root = world.roots[task.root]
        if not alive(world, root.owner):
            continue
        if task.state == "planned" and task.hand in ("", "sent"):
            if not root.fenced or "no_epoch_on_write" in flaws:
                hand = task.hand or "told"
                yield Step(
                    f"submit t{index}", True, world.task(index, state="submitting", hand=hand)
                )
                if world.faults.commit:
                    unsure = "told" if "sent_after_warning" in flaws else "late"
                    warned = world.task(index, state="submitting", hand=unsure, unreplicated=True)
                    yield Step(f"submit_warned t{index}", False, warned.spend("commit"))
            if "call_before_commit" in flaws and task.hand == "" and not root.fenced:
                yield Step(f"send t{index}", True, world.task(index, hand="sent", create=True))
        if task.hand == "told":
            yield Step(f"window_passes t{index}", True, world.task(index, hand="late"))
        if task.hand == "told" or (task.hand == "late" and "send_after_window" in flaws):
            if world.vdsm.up:
                sent = world.task(index, hand="sent", create=True)
                yield Step(f"send t{index}", True, sent)
            else:
                yield Step(f"send_fails t{index}", True, world.task(index, hand="no"))
        if task.hand == "deaf" and "create_repeated" in flaws and task.state in ANNOUNCED:
            spare = next((i for i, t in enumerate(world.tasks) if t.state == "spare"), None)
            if spare is not None:
                again = world.task(spare, state="twin", job="run").task(index, hand="sent")
                yield Step(f"send_again t{index}", True, again)


def answers(world: World, scenario: Scenario) -> Iterator[Step]:
    """bind_task, fail_task and doubt_task: what the engine makes of an answer, or of none."""
    for index, task in enumerate(world.tasks):
        if task.root < 0 or not task.hand:
            continue
        root = world.roots[task.root]
        if not alive(world, root.owner):
            continue
        accepted = not root.fenced or "no_epoch_on_write" in scenario.flaws
        if task.hand == "sent" and task.job and task.state != "planned":
            if accepted and task.state in ANNOUNCED:
                bound = world.task(
                    index,
                    state="running",
                    bound=True,
                    hand="",
                    settled=False,
                    quiet=0,
                    seen="",
                    unknown="",
                    unknown_absent=0,
                    suspects=0,
                    unreplicated=False,
                )
                if "suspects_kept" not in scenario.flaws:
                    bound = no_longer_suspect(bound, index)
                yield Step(f"bind t{index}", True, bound)
            else:
                yield Step(f"bind_refused t{index}", True, world.task(index, hand=""))
        if task.hand == "no":
            if accepted and task.state == "submitting":
                after = no_longer_suspect(world, index)
                after = finish_task(after, index, "failed", cleared=True, hand="")
                yield Step(f"fail t{index}", True, settle_roots(after, scenario))
            elif task.state != "planned":
                yield Step(f"fail_refused t{index}", True, world.task(index, hand=""))
        unanswered = task.hand in ("sent", "deaf", "late")
        if unanswered and accepted and task.state == "submitting":
            hand = task.hand if task.hand != "deaf" else ""
            after = world.task(index, state="in_doubt", hand=hand, unreplicated=False)
            yield Step(f"doubt t{index}", True, after)
        waits = ("submitting", "in_doubt") if task.hand == "sent" else ("submitting",)
        stubborn = task.hand == "late" and "send_after_window" in scenario.flaws
        hopeless = task.hand == "deaf" or not task.job
        if unanswered and task.state not in waits and hopeless and not stubborn:
            yield Step(f"give_up t{index}", True, world.task(index, hand=""))


def end_actions(world: World, scenario: Scenario) -> Iterator[Step]:
    """claim_end_actions and finish_end_action."""
    flaws = scenario.flaws
    for number, root in enumerate(world.roots):
        if root.state == "ready" and world.engine:
            yield Step(f"claim r{number}", True, world.root(number, state="ending", holder=CURRENT))
        if root.state == "ending" and world.engine:
            late = root.holder == CURRENT
            if not late or world.faults.claim:
                again = take_back(world, number).root(number, holder=CURRENT)
                again = again.spend("claim") if late else again
                yield Step(f"claim_again r{number}", not late, again)
        if root.state == "ending" and alive(world, root.holder):
            if "effect_apart" in flaws and not root.marked:
                after = world.root(number, marked=True, effects=root.effects + 1)
                yield Step(f"effect r{number}", True, after)
            else:
                yield Step(f"finish r{number}", True, finished(world, number, scenario))
        for name in ("stale_current", "stale_old"):
            if getattr(root, name) and alive(world, OLD if name == "stale_old" else CURRENT):
                after = world.root(number, **{name: False})
                if "no_token_on_finish" in flaws:
                    after = after.root(number, effects=root.effects + 1)
                yield Step(f"finish_refused r{number}", True, after)


def finished(world: World, number: int, scenario: Scenario) -> World:
    """The effect and the end of the root in one transaction."""
    root = world.roots[number]
    revert = scenario.revert and root.outcome == "failed"
    effects = root.effects + (0 if "effect_apart" in scenario.flaws else 1)
    waits = revert and "revert_not_waited" not in scenario.flaws
    after = world.root(
        number,
        state="reverting" if waits else "ended",
        disposition="revert" if revert else "clear",
        holder="",
        marked=False,
        effects=effects,
    )
    return settle_roots(after, scenario)


def engine_processes(world: World, scenario: Scenario) -> Iterator[Step]:
    """Kill, stop, start."""
    if world.engine and world.faults.crash:
        yield Step("crash_engine", False, killed(world, CURRENT).spend("crash"))
    if world.old:
        yield Step("crash_old_engine", False, killed(world, OLD))
    if not world.engine:
        yield Step("start_engine", True, fence(world._replace(engine=True), scenario))
    elif world.faults.freeze and not world.old:
        after = world._replace(old=True)
        for number, root in enumerate(world.roots):
            if root.owner == CURRENT:
                after = after.root(number, owner=OLD)
            if root.holder == CURRENT:
                after = after.root(number, holder=OLD)
            if root.stale_current:
                after = after.root(number, stale_current=False, stale_old=True)
        yield Step("start_engine beside", False, fence(after.spend("freeze"), scenario))


def killed(world: World, which: str) -> World:
    """What an engine knew is gone; what it sent is not."""
    world = world._replace(engine=False) if which == CURRENT else world._replace(old=False)
    for number, root in enumerate(world.roots):
        if root.owner == which:
            world = world.root(number, owner=DEAD)
            for index, task in enumerate(world.tasks):
                if task.root == number and task.hand:
                    world = world.task(index, hand="")
        if root.holder == which:
            world = world.root(number, holder=DEAD)
    stale = "stale_current" if which == CURRENT else "stale_old"
    for number, root in enumerate(world.roots):
        if getattr(root, stale):
            world = world.root(number, **{stale: False})
    return world


def operator(world: World, scenario: Scenario) -> Iterator[Step]:
    """cancel_command and resolve_task."""
    if world.faults.cancel:
        for number, root in enumerate(world.roots):
            if root.state == "live":
                after = world.root(number, aborted=True).spend("cancel")
                for index, task in enumerate(world.tasks):
                    if task.root == number and task.state == "planned":
                        after = finish_task(after, index, "not_submitted", cleared=True)
                yield Step(f"cancel r{number}", False, settle_roots(after, scenario))
    if world.faults.resolve:
        for index, task in enumerate(world.tasks):
            if task.state in ("running", "in_doubt"):
                gone = task.state == "in_doubt" and "resolve_ends_doubt" in scenario.flaws
                after = world.spend("resolve")
                if gone:
                    after = no_longer_suspect(after, index)
                settled, quiet = task.settled, task.quiet
                after = finish_task(after, index, "failed", resolved=not gone, cleared=gone)
                if not gone and not task.bound:
                    after = after.task(index, settled=settled, quiet=quiet)
                yield Step(f"resolve t{index}", False, settle_roots(after, scenario))
