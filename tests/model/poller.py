"""What pollers do: lease, read lver, list, report, work off the to-do list, report that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .database import apply_report, settle_roots
from .search import Step
from .state import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scenario import Scenario
    from .state import World

NOTHING = View()


def leases(world: World, _: Scenario) -> Iterator[Step]:
    """One poller has the pool; one that lost it need not know yet."""
    held = any(poller.lease == "held" for poller in world.pollers)
    for p, poller in enumerate(world.pollers):
        if not held:
            yield Step(f"acquire p{p}", True, world.poller(p, lease="held"))
        if poller.lease == "held" and world.faults.lease:
            yield Step(f"lease_lost p{p}", False, world.poller(p, lease="stale").spend("lease"))
        if poller.lease and world.faults.poller:
            yield Step(f"crash_poller p{p}", False, forget(world, p).spend("poller"))


def forget(world: World, p: int) -> World:
    """Everything a poller had in hand is gone."""
    for index in range(len(world.tasks)):
        world = world.view(p, index, **NOTHING._asdict())
    return world.poller(p, lease="", poll="", lver=0, aged=False, outdated=False)


def drop_poll(world: World, p: int) -> World:
    """The listing failed: a sign of life, nothing else."""
    for index in range(len(world.tasks)):
        world = world.view(p, index, bound=False, settled=False, listed="")
    return world.poller(p, poll="", lver=0, aged=False, outdated=False)


def polls(world: World, scenario: Scenario) -> Iterator[Step]:
    """A poll begins (start time and lver are read), lists, and is reported."""
    flaws = scenario.flaws
    vdsm = world.vdsm
    for p, poller in enumerate(world.pollers):
        if not poller.lease:
            continue
        if not poller.poll:
            busy = any(task.views[p].todo or task.views[p].did for task in world.tasks)
            if busy or not worth_a_poll(world):
                continue
            if vdsm.up or "failed_listing_is_empty" in flaws:
                after = begun(world, p, scenario)
                after = after if scenario.slow_list else listed(after, p, scenario)
                yield Step(f"poll_begins p{p}", True, after)
        elif poller.poll == "begun":
            yield Step(f"list p{p}", True, listed(world, p, scenario))
        elif poller.lease == "stale" and "no_lease_on_report" not in flaws:
            yield Step(f"report_refused p{p}", True, forget(world, p))
        elif poller.outdated and "old_report_applied" not in flaws:
            yield Step(f"report_too_old p{p}", True, drop_poll(world, p))
        else:
            yield Step(f"report p{p}", True, apply_report(world, p, scenario))


def worth_a_poll(world: World) -> bool:
    """Something is open in the database, or a slow check finds something at VDSM."""
    return any(
        task.state in ("submitting", "in_doubt", "running", "done")
        or task.unknown in ("run", "fin")
        or task.job not in ("", "gone")
        for task in world.tasks
    )


def begun(world: World, p: int, scenario: Scenario) -> World:
    """What holds at the start of a poll, by the database's clock."""
    cached = "lver_cached" in scenario.flaws and world.lver
    lver = cached or world.vdsm.lver
    after = world.poller(p, poll="begun", lver=lver, aged=world.aged and lver == world.lver)
    for index, task in enumerate(world.tasks):
        if task.bound or task.settled:
            after = after.view(p, index, bound=task.bound, settled=task.settled)
    return after


def listed(world: World, p: int, scenario: Scenario) -> World:
    """getAllTasksStatuses, and lver once more: a list of another SPM is no list."""
    flaws = scenario.flaws
    loose = "lver_cached" in flaws or "lver_read_once" in flaws
    if not world.vdsm.up:
        if "failed_listing_is_empty" not in flaws:
            return drop_poll(world, p)
    elif world.vdsm.lver != world.pollers[p].lver and not loose:
        return drop_poll(world, p)
    after = world.poller(p, poll="listed")
    if world.vdsm.up:
        for index, task in enumerate(world.tasks):
            if task.job not in ("", "gone") and not task.hidden:
                ghost = "ok" if task.executed else "back"
                said = {"undo": "run", "ghost": ghost}.get(task.job, task.job)
                after = after.view(p, index, listed=said)
    return after


def todos(world: World, scenario: Scenario) -> Iterator[Step]:
    """stop, revert and clear at VDSM, then their results in bulk."""
    for p, poller in enumerate(world.pollers):
        left = False
        for index, task in enumerate(world.tasks):
            todo = task.views[p].todo
            if todo:
                left = True
                yield Step(f"{todo} t{index} p{p}", True, told(world, p, index, todo))
        if left or not any(task.views[p].did for task in world.tasks):
            continue
        if poller.lease == "stale" and "no_lease_on_report" not in scenario.flaws:
            yield Step(f"actions_refused p{p}", True, forget(world, p))
        else:
            yield Step(
                f"report_actions p{p}", True, settle_roots(results(world, p, scenario), scenario)
            )


def told(world: World, p: int, index: int, todo: str) -> World:
    """One Task.stop, Task.revert or Task.clear; what fails is asked for again by the next poll."""
    task = world.tasks[index]
    after = world.view(p, index, todo="")
    if not world.vdsm.up:
        return after
    if task.hidden or task.job in ("", "gone"):
        return after.view(p, index, did="unknown")
    if todo == "stop":
        return after.task(index, job="undo") if task.job == "run" else after
    if todo == "revert":
        if task.job == "ok":
            return after.task(index, job="undo")
        ended = task.job in ("back", "ghost")
        return after.view(p, index, did="yes") if ended else after
    if task.job in ("ok", "back", "ghost"):
        return after.task(index, job="gone", wiped=True).view(p, index, did="yes")
    return after


def results(world: World, p: int, scenario: Scenario) -> World:
    """report_actions: true is believed, 401 waits until absence confirms it."""
    for index, task in enumerate(world.tasks):
        did = task.views[p].did
        if not did:
            continue
        world = world.view(p, index, did="")
        if did == "unknown" and "clear_401_accepted" not in scenario.flaws:
            continue
        if not task.bound:
            past = "" if "orphans_not_remembered" in scenario.flaws else "past"
            world = world.task(index, unknown=past, unknown_absent=0, suspects=0, seen="")
        elif task.state == "done" and world.roots[task.root].state == "reverting":
            world = world.task(index, reverted=True)
        elif task.state == "done" and world.roots[task.root].state == "ended":
            world = world.task(index, cleared=True)
    return world
