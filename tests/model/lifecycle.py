"""The life of commands: engines, pollers, VDSM and the database put together.

One step is one transaction, one verb at VDSM, or one event; everything interleaves with
everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import engine, poller, vdsm
from .database import OVER, can_compensate
from .state import OLD, Packing, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scenario import Scenario
    from .search import Step

SOURCES = (
    engine.plan,
    engine.announce_and_send,
    engine.answers,
    engine.end_actions,
    engine.engine_processes,
    engine.operator,
    vdsm.tasks_at_vdsm,
    vdsm.spm,
    vdsm.time,
    vdsm.primary,
    poller.leases,
    poller.polls,
    poller.todos,
)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The model of one scenario."""

    scenario: Scenario
    packing: Packing = field(default_factory=Packing, compare=False)

    @property
    def name(self) -> str:
        """For the table."""
        return self.scenario.name

    def first(self) -> World:
        """Nothing planned yet."""
        return self.scenario.start()

    def steps(self, state: World) -> Iterator[Step]:
        """Everything that can happen."""
        for source in SOURCES:
            yield from source(state, self.scenario)

    def pack(self, state: World, symmetry: bool) -> tuple[int, ...]:
        """Up to the names of tasks and pollers."""
        return self.packing.pack(state, symmetry=symmetry)

    def unpack(self, packed: tuple[int, ...]) -> World:
        """The state again."""
        return self.packing.unpack(packed)

    def at_rest(self, state: World) -> bool:
        """Every planned root is in the history and nothing of ours is left at VDSM."""
        return all(root.state in ("unplanned", "history") for root in state.roots) and not any(
            task.create or (task.job not in ("", "gone") and task.root >= 0) for task in state.tasks
        )

    def violations(self, state: World) -> Iterator[str]:
        """The invariants of one state."""
        for number, root in enumerate(state.roots):
            if root.state == "unplanned":
                continue
            own = [task for task in state.tasks if task.root == number]
            works = [task for task in own if task.create or task.job in ("run", "undo")]
            works += [task for task in state.tasks if task.state == "twin" and task.job == "run"]
            if root.outcome == "succeeded" and not all(task.executed for task in own):
                yield "1: succeeded, but not every task was executed"
            if root.outcome == "succeeded" and root.gap:
                yield "1: succeeded after a restart with an unbound placeholder"
            if root.effects > 1:
                yield "2: the effect of endAction happened twice"
            over = root.state in ("ended", "history")
            if over and not root.effects:
                yield "2: ended without the effect of endAction"
            if over and works and not any(task.resolved for task in own):
                yield "4: the entity is free while VDSM works on it"
            if works and can_compensate(state, number, self.scenario):
                yield "6: compensation may start while VDSM works or will work"
            unreverted = any(
                task.outcome == "succeeded" and task.job in ("ok", "undo") for task in own
            )
            if over and root.disposition == "revert" and unreverted:
                yield "6: the root ended before VDSM had reverted its task"
        for task in state.tasks:
            at_vdsm = task.job in ("run", "ok", "undo", "back")
            if task.bound and at_vdsm and (task.cleared or task.state == "history"):
                yield "3: out of the live tables, or called cleared, while VDSM has it"
            if task.wiped and task.state in ("submitting", "running"):
                yield "3: cleared at VDSM before its command could see the end"
            if (
                task.root < 0
                and task.wiped
                and not any(
                    other.outcome == "in_doubt" or other.resolved or other.state == "in_doubt"
                    for other in state.tasks
                )
            ):
                yield "3: a task of another tool was cleared without any doubt about it"

    def regressions(self, before: World, after: World) -> Iterator[str]:
        """What one step must never do."""
        for was, now in zip(before.pollers, after.pollers, strict=True):
            reported = was.poll == "listed" and not now.poll and not was.outdated
            if reported and was.lease == now.lease == "stale":
                yield "5: a report under a lost lease was accepted"
        for was, now in zip(before.roots, after.roots, strict=True):
            if was.fenced and now.effects > was.effects and was.holder == OLD:
                yield "5: an engine of an older epoch finished a command"
        for old, new in zip(before.tasks, after.tasks, strict=True):
            if old.outcome and new.outcome != old.outcome:
                yield "1: an outcome changed"
            if old.bound and not new.bound:
                yield "1: a binding was undone"
            live = new.state in ("running", "done") and old.bound
            backwards = live and old.seen in OVER and new.seen == "run"
            if backwards and before.roots[old.root].state != "reverting":
                yield "5: an older listing overwrote a newer one"
