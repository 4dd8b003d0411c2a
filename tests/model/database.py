"""The rules that the database applies inside one transaction.

Each function takes a world and returns the world after the rule; the actions of engines, pollers
and operators call them. A transaction is atomic here: what happens between its statements is the
subject of the small models in `transactions.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .state import CURRENT, OLD, Root, Task, View, World

if TYPE_CHECKING:
    from .scenario import Scenario

ANNOUNCED = ("submitting", "in_doubt")
OVER = ("ok", "back")


def finish_task(world: World, index: int, outcome: str, **changes: object) -> World:
    """End a task; its root becomes ready with its last task."""
    world = world.task(
        index,
        state="done",
        outcome=outcome,
        settled=False,
        quiet=0,
        absent=0,
        unreplicated=False,
        **changes,
    )
    root = world.tasks[index].root
    if world.roots[root].state != "live":
        return world
    tasks = [task for task in world.tasks if task.root == root]
    if any(task.state != "done" for task in tasks):
        return world
    good = not world.roots[root].aborted and all(task.outcome == "succeeded" for task in tasks)
    return world.root(root, state="ready", outcome="succeeded" if good else "failed")


def settle_roots(world: World, scenario: Scenario) -> World:
    """End roots whose tasks are reverted; move ended and cleared ones to the history."""
    for number, root in enumerate(world.roots):
        if root.state == "reverting" and all(
            task.reverted or task.cleared or task.outcome != "succeeded"
            for task in world.tasks
            if task.root == number
        ):
            world = world.root(number, state="ended")
        if world.roots[number].state == "ended" and (
            "ended_leaves_at_once" in scenario.flaws
            or all(task.cleared for task in world.tasks if task.root == number)
        ):
            world = world.root(number, state="history", holder="", marked=False)
            for index, task in enumerate(world.tasks):
                if task.root == number:
                    world = world.task(
                        index, state="history", seen="", absent=0, quiet=0, settled=False
                    )
    return world


def announced(world: World) -> int:
    """The tasks that VDSM may have without our knowing its id."""
    mask = 0
    for index, task in enumerate(world.tasks):
        if task.state in ANNOUNCED or (task.resolved and not task.bound and not task.cleared):
            mask |= 1 << index
    return mask


def no_longer_suspect(world: World, index: int) -> World:
    """VDSM has said which task is this one's, or that there is none."""
    for other, task in enumerate(world.tasks):
        if task.suspects >> index & 1:
            world = world.task(other, suspects=task.suspects & ~(1 << index))
    return world


def live_suspect(world: World, index: int) -> bool:
    """A task of the current epoch can still bind this unknown."""
    for other, task in enumerate(world.tasks):
        if (
            world.tasks[index].suspects >> other & 1
            and task.state in ANNOUNCED
            and not world.roots[task.root].fenced
        ):
            return True
    return False


def fence(world: World, scenario: Scenario) -> World:
    """start_engine: a new epoch recovers the roots of the older ones."""
    for number, root in enumerate(world.roots):
        if root.state == "ending" and "claims_not_taken_back" not in scenario.flaws:
            world = take_back(world, number).root(number, state="ready")
        if root.fenced or root.state in ("unplanned", "history"):
            continue
        gap = any(
            task.root == number and not task.bound and task.outcome == "" for task in world.tasks
        )
        world = world.root(number, fenced=True, gap=gap or root.gap)
        for index, task in enumerate(world.tasks):
            if task.root != number:
                continue
            if task.state == "planned" or (
                task.state == "submitting" and "no_in_doubt" in scenario.flaws
            ):
                world = finish_task(world, index, "not_submitted", cleared=True)
            elif task.state == "submitting":
                world = world.task(index, state="in_doubt", unreplicated=False)
    return settle_roots(world, scenario)


def take_back(world: World, number: int) -> World:
    """The claim token of a root is replaced; whoever had it does not know."""
    holder = world.roots[number].holder
    changes: dict[str, object] = {"holder": "", "marked": False}
    if holder == CURRENT:
        changes["stale_current"] = True
    elif holder == OLD:
        changes["stale_old"] = True
    return world.root(number, **changes)


def apply_report(world: World, p: int, scenario: Scenario) -> World:
    """report_poll: apply one listing, reconcile, write the to-do list into the poller's hands."""
    flaws = scenario.flaws
    poller = world.pollers[p]
    # A commit that was replicated has replicated every commit before it.
    for index, task in enumerate(world.tasks):
        if task.unreplicated:
            world = world.task(index, unreplicated=False)
    carried = world.aged and poller.lver != world.lver
    if poller.lver != world.lver:
        world = world._replace(lver=poller.lver, aged=False)
        for index, task in enumerate(world.tasks):
            world = world.task(
                index,
                absent=task.absent if "absence_across_lver" in flaws else 0,
                unknown_absent=0,
                quiet=task.quiet if "barrier_across_lver" in flaws else 0,
            )
    aged = world.aged if "absence_time_at_report" in flaws else poller.aged
    long_absent = aged or ("absence_across_lver" in flaws and carried)
    for index in range(len(world.tasks)):
        world = apply_status(world, p, index, long_absent, scenario)
    aged = aged or ("barrier_across_lver" in flaws and carried)
    for index, task in enumerate(world.tasks):
        settled = task.settled if "settle_at_report" in flaws else task.views[p].settled
        doubtful = task.state == "in_doubt" or (task.resolved and not task.bound)
        if doubtful and not task.cleared and (settled or "no_settle" in flaws):
            world = reconcile(world, index, aged, scenario)
    world = settle_roots(world, scenario)
    for index in range(len(world.tasks)):
        todo = wanted(world, index, scenario)
        world = world.view(p, index, bound=False, settled=False, listed="", todo=todo, did="")
    for other in range(len(world.pollers)):
        if other != p and world.pollers[other].poll and not world.pollers[other].outdated:
            world = world.poller(other, outdated=True)
    return world.poller(p, poll="", lver=0, aged=False, outdated=False)


def apply_status(world: World, p: int, index: int, aged: bool, scenario: Scenario) -> World:
    """What one listing says, or does not say, about one VDSM task."""
    flaws = scenario.flaws
    task: Task = world.tasks[index]
    view: View = task.views[p]
    if task.state == "history" and task.bound:
        return world.task(index, seen=view.listed)
    if not task.bound:
        return apply_unknown(world, index, view.listed, aged, scenario)
    if view.listed:
        world = world.task(index, absent=0, seen=view.listed)
        success = view.listed == "ok" or (
            view.listed == "back" and "clean_success_succeeds" in flaws
        )
        outcome = "succeeded" if success else "failed"
        if task.state == "running" and view.listed in OVER:
            world = finish_task(world, index, outcome)
        elif task.state == "done" and view.listed in OVER and "outcome_rewritten" in flaws:
            world = world.task(index, outcome=outcome)
        return world
    if not view.bound and "absence_without_poll_start" not in flaws:
        return world
    absent = min(task.absent + 1, scenario.polls)
    world = world.task(index, absent=absent)
    if (absent == scenario.polls and aged) or "absence_at_once" in flaws:
        if task.state == "running":
            return finish_task(world, index, "lost", seen="absent", cleared=True)
        return world.task(index, seen="absent", cleared=True)
    return world


def apply_unknown(world: World, index: int, listed: str, aged: bool, scenario: Scenario) -> World:
    """What one listing says about a VDSM task that nobody has bound."""
    task = world.tasks[index]
    if listed:
        if task.unknown == "past":
            return world.task(index, seen=listed)
        suspects = task.suspects if task.unknown else announced(world)
        found = "fin" if listed in OVER else "run"
        return world.task(index, unknown=found, unknown_absent=0, suspects=suspects)
    if task.unknown in ("run", "fin"):
        absent = min(task.unknown_absent + 1, scenario.polls)
        if absent == scenario.polls and aged:
            return world.task(index, unknown="past", unknown_absent=0, suspects=0)
        if "unknown_forgotten_at_once" in scenario.flaws:
            return world.task(index, unknown="", unknown_absent=0, suspects=0)
        return world.task(index, unknown_absent=absent)
    return world.task(index, seen="") if task.unknown == "past" else world


def reconcile(world: World, index: int, aged: bool, scenario: Scenario) -> World:
    """One more poll begun after the settle time; the barrier opens when nothing is left to wait."""
    flaws = scenario.flaws
    quiet = min(world.tasks[index].quiet + 1, scenario.polls)
    world = world.task(index, quiet=quiet)
    if quiet < scenario.polls or not (aged or "barrier_without_time" in flaws):
        return world
    if "barrier_ignores_unknowns" not in flaws:
        for task in world.tasks:
            if task.unknown == "run" and task.suspects >> index & 1:
                return world
    if world.tasks[index].state == "in_doubt":
        return finish_task(world, index, "in_doubt", cleared=True)
    return world.task(index, cleared=True, quiet=0, settled=False)


def wanted(world: World, index: int, scenario: Scenario) -> str:
    """What VDSM should be told about one task: the to-do list of report_poll."""
    flaws = scenario.flaws
    task = world.tasks[index]
    if task.bound:
        root: Root = world.roots[task.root]
        if task.state == "history":
            return "clear" if task.seen in OVER and "ghosts_ignored" not in flaws else ""
        if root.aborted and task.state == "running" and task.seen == "run":
            return "stop"
        if root.state == "reverting" and task.outcome == "succeeded" and not task.reverted:
            return "revert" if task.seen in OVER else ""
        if root.state == "ended" and task.seen in OVER and not task.cleared:
            return "clear"
        return ""
    if task.unknown == "past":
        return "clear" if task.seen in OVER and "ghosts_ignored" not in flaws else ""
    if task.unknown == "fin" and task.suspects and "orphans_not_cleared" not in flaws:
        if "orphan_before_bind" not in flaws and live_suspect(world, index):
            return ""
        return "clear"
    return ""


def can_compensate(world: World, number: int, scenario: Scenario) -> bool:
    """Whether the entity of a root is out of VDSM's hands."""
    flaws = scenario.flaws
    for index, task in enumerate(world.tasks):
        if task.root != number:
            continue
        doubt = ("in_doubt",) if "compensate_submitting" in flaws else ANNOUNCED
        if task.state in doubt:
            return False
        if "compensate_by_our_state" in flaws:
            if task.state == "running":
                return False
            continue
        if task.resolved and not task.bound and not task.cleared:
            return False
        live = task.state in ("running", "done") and task.bound and not task.cleared
        if live and task.seen not in OVER and task.seen != "absent":
            return False
        if "compensate_beside_revert" not in flaws and task.outcome == "succeeded":
            reverting = world.roots[number].state == "reverting"
            if reverting and not task.reverted and not task.cleared and task.seen != "back":
                return False
        if "compensate_beside_unknowns" not in flaws and any(
            other.unknown == "run" and other.suspects >> index & 1 for other in world.tasks
        ):
            return False
    return True
