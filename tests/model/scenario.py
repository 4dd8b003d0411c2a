"""What one run of the search explores: sizes, faults, settings, and the rule that is broken.

A *flaw* is one rule of the design taken away. The names are used by the actions, the sentences by
the table and by docs/model.md. Section numbers are those of the hard cases in docs/model.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .state import Faults, Poller, Root, Task, Vdsm, World

if TYPE_CHECKING:
    from collections.abc import Iterable

FLAWS: dict[str, str] = {
    # Absence.
    "absence_at_once": "a bound task is lost as soon as one listing lacks it",
    "absence_without_poll_start": "absence counts for a task bound after the poll began",
    "absence_across_lver": "absence counts go on over a change of the SPM",
    "absence_time_at_report": "absence_time is measured at the report, not at the poll's start",
    "failed_listing_is_empty": "error 654 is taken for an empty list",
    "lver_cached": "the poller does not read lver again for each listing",
    "lver_read_once": "lver is read before the listing, but not again after it",
    # In doubt.
    "no_in_doubt": "an announced task without an answer counts as not submitted",
    "no_settle": "an in-doubt task is reconciled without waiting for in_doubt_settle",
    "settle_from_announce": "in_doubt_settle counts from the announcement",
    "settle_at_report": "in_doubt_settle is measured at the report, not at the poll's start",
    "barrier_ignores_unknowns": "an in-doubt task is reconciled beside an unfinished unknown",
    "barrier_without_time": "the barrier asks for polls of one lver, but for no absence_time",
    "barrier_across_lver": "polls of the barrier go on over a change of the SPM",
    "unknown_forgotten_at_once": "an unknown is forgotten when one listing lacks it",
    "resolve_ends_doubt": "an operator's word on an in-doubt task ends the doubt, too",
    # Unknowns and orphans.
    "orphan_before_bind": "an unknown is cleared while a suspect of a live engine can bind it",
    "suspects_kept": "a task that has bound another id remains a suspect",
    "orphans_not_remembered": "the id of a cleared orphan is forgotten",
    "orphans_not_cleared": "orphans are only reported",
    # Compensation.
    "compensate_by_our_state": "can_compensate trusts our states, not what VDSM last said",
    "compensate_beside_unknowns": "can_compensate ignores unfinished unknowns",
    "compensate_submitting": "can_compensate ignores a task that is submitting",
    "compensate_beside_revert": "can_compensate ignores a revert that VDSM has not confirmed",
    # Epochs, leases, tokens.
    "no_epoch_on_write": "writes of an older engine are accepted",
    "no_epoch_on_plan": "plans of an older engine are accepted",
    "no_token_on_finish": "finish does not check the claim token",
    "effect_apart": "the effect is committed before the finish",
    "no_lease_on_report": "reports of a poller that lost its lease are accepted",
    "old_report_applied": "a report older than the last one applied is accepted",
    "claims_not_taken_back": "start_engine leaves the claims of older epochs alone",
    # Sending.
    "call_before_commit": "the engine calls VDSM before the announcement is committed",
    "send_after_window": "an engine sends after the submit window",
    "create_repeated": "the engine repeats a create verb whose answer was lost",
    "sent_after_warning": "the engine calls VDSM although COMMIT only warned",
    # The end.
    "clean_success_succeeds": "cleanSuccess counts as success",
    "outcome_rewritten": "what VDSM says after the end changes the outcome",
    "clear_401_accepted": "401 to a clear counts as cleared at once",
    "revert_not_waited": "the root ends before VDSM has reverted its tasks",
    "ended_leaves_at_once": "an ended root leaves the live tables before it is cleared",
    "ghosts_ignored": "a known id that is listed again is not cleared again",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One closed world: how many tasks each root has, which faults, which settings."""

    name: str
    roots: tuple[int, ...] = (2,)  # tasks of each root
    strays: int = 0  # VDSM tasks of another tool, running from the start
    spares: int = 0  # room for VDSM tasks that a repeated create makes
    pollers: int = 1
    faults: Faults = field(default_factory=Faults)
    polls: int = 1  # the setting absence_polls
    slow_list: bool = False  # things happen between the start of a poll and its listing
    revert: bool = False  # failed roots are reverted
    refuse: bool = False  # VDSM may refuse a create
    fail: bool = True  # a job may fail
    flaws: frozenset[str] = frozenset()

    def start(self) -> World:
        """The first state. A poller that nothing can disturb has its lease from the start."""
        steady = self.pollers == 1 and not self.faults.lease and not self.faults.poller
        pollers = tuple(Poller(lease="held" if steady else "") for _ in range(self.pollers))
        tasks = [Task(root=-1, job="run") for _ in range(self.strays)]
        tasks += [Task(root=-1, state="spare") for _ in range(self.spares)]
        tasks += [Task(root=root) for root, count in enumerate(self.roots) for _ in range(count)]
        return World(
            tasks=tuple(tasks),
            roots=tuple(Root() for _ in self.roots),
            pollers=pollers,
            vdsm=Vdsm(),
            faults=self.faults,
        )

    def broken(self, *flaws: str) -> Scenario:
        """The same world with rules taken away."""
        unknown = set(flaws) - set(FLAWS)
        if unknown:
            raise ValueError(f"no such flaw: {', '.join(sorted(unknown))}")
        return replace(self, flaws=frozenset(flaws))


def members(mask: int) -> Iterable[int]:
    """The tasks of a bit mask."""
    index = 0
    while mask:
        if mask & 1:
            yield index
        mask >>= 1
        index += 1
