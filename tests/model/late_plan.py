"""A plan of the older engine meets start_engine, statement by statement.

The rule: planning takes a shared lock on the engine's row, start_engine an exclusive one; and the
next claim recovers a root that slipped through. Either alone is enough, so the broken variant
takes both away: `plan_without_lock` and `claim_does_not_recover`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .search import Step
from .small import REPEATABLE_READ, Small

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meeting(NamedTuple):
    """The plan, the start, and the root."""

    plan: str = "idle"  # begun, checked, inserted, planned, refused
    start: str = "idle"  # begun, raised, recovered, done
    epoch: int = 1
    snapshot: int = 1  # the epoch that the plan's snapshot shows
    root: str = ""  # inserted (uncommitted), live, recovered


@dataclass(frozen=True, slots=True)
class LatePlan(Small):
    """One plan, one start_engine, then claims."""

    @property
    def name(self) -> str:
        """For the table."""
        return f"plan against start_engine, {self.isolation}"

    def first(self) -> Meeting:
        """Both are about to begin."""
        return Meeting()

    def at_rest(self, state: Meeting) -> bool:
        """Nothing is left that only the dead engine could end."""
        over = state.start == "done" and state.plan in ("planned", "refused")
        return over and state.root in ("", "recovered")

    def steps(self, state: Meeting) -> Iterator[Step]:
        """The next statement of either, or a claim of the new engine."""
        locks = "plan_without_lock" not in self.flaws
        if state.plan == "idle":
            yield Step("begin_plan", True, state._replace(plan="begun", snapshot=state.epoch))
        elif state.plan == "begun":
            if not locks:
                seen = state.snapshot if self.isolation == REPEATABLE_READ else state.epoch
                answer = "checked" if seen == 1 else "refused"
                yield Step("check_epoch", True, state._replace(plan=answer))
            elif state.start not in ("raised", "recovered"):
                if state.epoch == 1:
                    yield Step("lock_engine_row", True, state._replace(plan="checked"))
                elif self.isolation == REPEATABLE_READ and state.snapshot == 1:
                    yield Step("40001_retry", True, state._replace(plan="idle"))
                else:
                    yield Step("stale_epoch", True, state._replace(plan="refused"))
        elif state.plan == "checked":
            yield Step("insert_root", True, state._replace(plan="inserted", root="inserted"))
        elif state.plan == "inserted":
            yield Step("commit_plan", True, state._replace(plan="planned", root="live"))
        if state.start == "idle":
            yield Step("begin_start", True, state._replace(start="begun"))
        elif state.start == "begun" and not (locks and state.plan in ("checked", "inserted")):
            yield Step("raise_epoch", True, state._replace(start="raised"))
        elif state.start == "raised":
            root = "recovered" if state.root == "live" else state.root
            yield Step("recover", True, state._replace(start="recovered", root=root))
        elif state.start == "recovered":
            yield Step("commit_start", True, state._replace(start="done", epoch=2))
        slipped = state.start == "done" and state.root == "live"
        if slipped and "claim_does_not_recover" not in self.flaws:
            yield Step("claim", True, state._replace(root="recovered"))
