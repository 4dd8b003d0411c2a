"""What is searched: the right protocol in closed worlds, and each rule taken away.

The full product of everything at once is too large for a search in Python, so the protocol is
always whole and the *faults* are composed: each world below allows a few of them at a time. The
small models look inside transactions, which are atomic in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .admission import Admission
from .last_two import LastTwo
from .late_plan import LatePlan
from .lifecycle import Lifecycle
from .report_snapshot import ReportSnapshot
from .scenario import FLAWS, Scenario
from .small import READ_COMMITTED, REPEATABLE_READ
from .state import Faults

if TYPE_CHECKING:
    from .search import Model

# Searched completely in every run of the tests.
WORLDS = (
    Scenario("two tasks, engine killed", roots=(2,), fail=False, faults=Faults(crash=1)),
    Scenario(
        "SPM lost twice, engine killed",
        roots=(1,),
        slow_list=True,
        faults=Faults(failover=2, ghost=1, crash=1),
    ),
    Scenario("two pollers", roots=(1,), pollers=2, faults=Faults(lease=1, poller=1)),
    Scenario(
        "engine stopped and replaced",
        roots=(1,),
        faults=Faults(freeze=1, claim=1, crash=1, answer=1),
    ),
    Scenario("two tasks, reverted", roots=(2,), revert=True),
    Scenario(
        "refusals and an operator",
        roots=(1,),
        refuse=True,
        faults=Faults(cancel=1, resolve=1, crash=1, answer=1),
    ),
    Scenario("another tool", roots=(1,), strays=1, fail=False, faults=Faults(foreign=1, crash=1)),
    Scenario("absence_polls is 2", roots=(1,), polls=2, faults=Faults(failover=1, crash=1)),
    Scenario("primary lost", roots=(1,), faults=Faults(crash=1, commit=1, answer=1)),
)

# Searched completely by `make model`.
LARGE = (
    Scenario("two commands, engine killed", roots=(1, 1), fail=False, faults=Faults(crash=1)),
    Scenario("two commands, engine replaced", roots=(1, 1), fail=False, faults=Faults(freeze=1)),
    Scenario("two tasks, SPM lost", roots=(2,), fail=False, faults=Faults(failover=1)),
    Scenario(
        "two pollers, SPM lost",
        roots=(1,),
        pollers=2,
        faults=Faults(lease=1, poller=1, failover=1),
    ),
    Scenario("two tasks, an operator", roots=(2,), fail=False, faults=Faults(cancel=1, resolve=1)),
    Scenario("two commands, three tasks", roots=(2, 1), fail=False),
)

# Too large to be complete: random walks.
WIDE = Scenario(
    "everything at once",
    roots=(3, 2),
    strays=1,
    pollers=2,
    polls=2,
    slow_list=True,
    revert=True,
    refuse=True,
    faults=Faults(2, 1, 2, 2, 1, 2, 2, 1, 1, 1, 1, 1),
)

ONE = Scenario("one task", roots=(1,))
_CRASH = Scenario("one task", roots=(1,), faults=Faults(crash=1))
_SPM = Scenario("one task", roots=(1,), faults=Faults(failover=1))
_SPM_SLOW = Scenario("one task", roots=(1,), slow_list=True, faults=Faults(failover=1))
_CRASH_SPM = Scenario("one task", roots=(1,), faults=Faults(crash=1, failover=1))
_GHOST = Scenario("one task", roots=(1,), faults=Faults(failover=1, ghost=1))
_FREEZE = Scenario("one task", roots=(1,), faults=Faults(freeze=1))
_REVERT = Scenario("two tasks", roots=(2,), revert=True)
_RESOLVE = Scenario("one task", roots=(1,), faults=Faults(resolve=1))

# The smallest world in which each flaw does harm.
WORLD_OF_FLAW: dict[str, Scenario] = {
    "absence_at_once": _SPM,
    "absence_without_poll_start": ONE,
    "absence_across_lver": _SPM,
    "absence_time_at_report": _SPM,
    "failed_listing_is_empty": _SPM_SLOW,
    "lver_cached": _SPM,
    "lver_read_once": _SPM_SLOW,
    "no_in_doubt": _CRASH,
    "no_settle": _CRASH,
    "settle_from_announce": _CRASH,
    "settle_at_report": _CRASH,
    "barrier_ignores_unknowns": _CRASH,
    "barrier_without_time": _CRASH_SPM,
    "barrier_across_lver": _CRASH_SPM,
    "unknown_forgotten_at_once": _CRASH_SPM,
    "resolve_ends_doubt": _RESOLVE,
    "orphan_before_bind": ONE,
    "suspects_kept": Scenario("one task, one stray", roots=(1,), strays=1),
    "orphans_not_remembered": _GHOST,
    "orphans_not_cleared": _CRASH,
    "compensate_by_our_state": _RESOLVE,
    "compensate_submitting": ONE,
    "compensate_beside_revert": _REVERT,
    "no_epoch_on_write": _FREEZE,
    "no_epoch_on_plan": _FREEZE,
    "no_token_on_finish": Scenario("one task", roots=(1,), faults=Faults(claim=1)),
    "effect_apart": _CRASH,
    "no_lease_on_report": Scenario("one task", roots=(1,), pollers=2, faults=Faults(lease=1)),
    "old_report_applied": Scenario(
        "one task", roots=(1,), pollers=2, faults=Faults(lease=1, poller=1)
    ),
    "claims_not_taken_back": _FREEZE,
    "call_before_commit": _CRASH,
    "send_after_window": _FREEZE,
    "create_repeated": Scenario("one task", roots=(1,), spares=1, faults=Faults(answer=1)),
    "sent_after_warning": Scenario("one task", roots=(1,), faults=Faults(commit=1, crash=1)),
    "clean_success_succeeds": ONE,
    "outcome_rewritten": _REVERT,
    "clear_401_accepted": _SPM,
    "revert_not_waited": _REVERT,
    "ended_leaves_at_once": ONE,
    "ghosts_ignored": _GHOST,
}

# Rules whose loss alone does no harm because another rule stands behind them.
SECOND_LINES: dict[str, str] = {
    "compensate_beside_unknowns": "a suspect keeps its doubt until the barrier has passed",
}


@dataclass(frozen=True, slots=True)
class Broken:
    """A model with rules taken away, and what that means."""

    flaw: str
    meaning: str
    model: Model


def right_models() -> list[Model]:
    """The protocol as designed, for the tests."""
    small: list[Model] = [
        kind(isolation)
        for kind in (LastTwo, Admission, LatePlan, ReportSnapshot)
        for isolation in (READ_COMMITTED, REPEATABLE_READ)
    ]
    return [*small, *(Lifecycle(world) for world in WORLDS)]


def broken_models() -> list[Broken]:
    """Each rule taken away."""
    small = [
        ("count_rows", "finished tasks are counted, not counted down", LastTwo, READ_COMMITTED),
        ("count_rows", "the same, above READ COMMITTED", LastTwo, REPEATABLE_READ),
        ("task_before_root", "locks are taken in the opposite order", LastTwo, READ_COMMITTED),
        ("query", "admission by a query", Admission, READ_COMMITTED),
        ("lock_then_query", "admission by a lock and a query", Admission, REPEATABLE_READ),
        (
            "plan_without_lock+claim_does_not_recover",
            "planning does not lock the engine's row, and no claim recovers what slipped through",
            LatePlan,
            READ_COMMITTED,
        ),
        (
            "snapshot_before_list",
            "a report older than its listing",
            ReportSnapshot,
            REPEATABLE_READ,
        ),
    ]
    found = [
        Broken(name, meaning, kind(isolation, frozenset(name.split("+"))))
        for name, meaning, kind, isolation in small
    ]
    found += [
        Broken(flaw, FLAWS[flaw], Lifecycle(world.broken(flaw)))
        for flaw, world in WORLD_OF_FLAW.items()
    ]
    return found
