"""What VDSM and time do: tasks are born and end, the SPM moves, waiting times pass.

Assumptions, each stated where it is used: a create verb that was sent is born or refused before
in_doubt_settle has passed since its task became in doubt; recovered tasks are listed again before
absence_time has passed since the first report of the new lver; a host that loses the SPM role
works on nothing any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .search import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scenario import Scenario
    from .state import World


def tasks_at_vdsm(world: World, scenario: Scenario) -> Iterator[Step]:
    """Create verbs get through or are refused, jobs end, answers are lost."""
    for index, task in enumerate(world.tasks):
        if task.create and world.vdsm.up:
            yield Step(f"born t{index}", True, world.task(index, create=False, job="run"))
            if scenario.refuse:
                hand = "no" if task.hand == "sent" else task.hand
                refused = world.task(index, create=False, hand=hand)
                yield Step(f"refused t{index}", True, refused)
        if task.hand == "sent" and world.faults.answer and (task.create or task.job):
            lost = world.task(index, hand="deaf").spend("answer")
            yield Step(f"answer_lost t{index}", False, lost)
        if not world.vdsm.up or task.hidden:
            continue
        if task.job == "run":
            yield Step(f"job_done t{index}", True, world.task(index, job="ok", executed=True))
            if scenario.fail:
                yield Step(f"job_fails t{index}", True, world.task(index, job="undo"))
        if task.job == "undo":
            yield Step(f"rolled_back t{index}", True, world.task(index, job="back"))
        if task.job in ("ok", "back") and world.faults.foreign:
            gone = world.task(index, job="gone").spend("foreign")
            yield Step(f"cleared_by_another_tool t{index}", False, gone)


def spm(world: World, _: Scenario) -> Iterator[Step]:
    """The SPM is lost and found; it has the role before it lists what it recovered."""
    vdsm = world.vdsm
    if vdsm.up and world.faults.failover:
        after = world._replace(vdsm=vdsm._replace(up=False)).spend("failover")
        for index, task in enumerate(world.tasks):
            if task.create:
                after = after.task(index, create=False)
            if task.job in ("run", "undo", "ok", "back", "ghost"):
                job = "undo" if task.job == "run" else task.job
                after = after.task(index, job=job, hidden=True)
        yield Step("spm_lost", False, after)
        if world.faults.ghost and any(task.job == "gone" for task in world.tasks):
            after = after.spend("ghost")
            for index, task in enumerate(world.tasks):
                if task.job == "gone":
                    after = after.task(index, job="ghost", hidden=True)
            yield Step("spm_lost with_ghosts", False, after)
    if not vdsm.up:
        loaded = not any(task.hidden for task in world.tasks)
        after = world._replace(vdsm=vdsm._replace(up=True, lver=vdsm.lver + 1, loaded=loaded))
        yield Step("spm_started", True, after)
    if vdsm.up and not vdsm.loaded:
        after = world._replace(vdsm=vdsm._replace(loaded=True))
        for index, task in enumerate(world.tasks):
            if task.hidden:
                after = after.task(index, hidden=False)
        yield Step("recovered_tasks_listed", True, after)


def time(world: World, scenario: Scenario) -> Iterator[Step]:
    """Waiting times pass, no earlier than the assumptions allow."""
    flaws = scenario.flaws
    loading = world.vdsm.up and not world.vdsm.loaded and world.lver == world.vdsm.lver
    if not world.aged and not loading:
        yield Step("absence_time_passes", True, world._replace(aged=True))
    for index, task in enumerate(world.tasks):
        if task.settled or task.hand == "told":
            continue
        doubtful = task.state == "in_doubt" or (
            task.resolved and not task.bound and not task.cleared
        )
        early = "settle_from_announce" in flaws
        if (doubtful and (early or not task.create)) or (early and task.state == "submitting"):
            yield Step(f"settle_time_passes t{index}", True, world.task(index, settled=True))


def primary(world: World, _: Scenario) -> Iterator[Step]:
    """The primary is lost with a commit that was never replicated."""
    if any(task.unreplicated for task in world.tasks):
        after = world
        for index, task in enumerate(world.tasks):
            if task.unreplicated:
                after = after.task(index, state="planned", unreplicated=False)
        yield Step("primary_lost", False, after)
