"""The model of the protocol: the right one holds, and each broken one is caught."""

from __future__ import annotations

import pytest

from .catalogue import (
    SECOND_LINES,
    WIDE,
    WORLD_OF_FLAW,
    WORLDS,
    Broken,
    broken_models,
    right_models,
)
from .lifecycle import Lifecycle
from .scenario import FLAWS, Scenario
from .search import Model, Verdict, explore, wander
from .state import Faults

# Every action of the life of commands; a search that never fires one proves nothing about it.
ACTIONS = {
    "plan", "submit", "submit_warned", "window_passes", "send", "send_fails", "bind",
    "bind_refused", "fail", "fail_refused", "doubt", "give_up", "claim", "claim_again", "finish",
    "finish_refused", "crash_engine", "crash_old_engine", "start_engine", "cancel", "resolve",
    "born", "refused", "answer_lost", "job_done", "job_fails", "rolled_back",
    "cleared_by_another_tool", "spm_lost", "spm_started", "recovered_tasks_listed",
    "absence_time_passes", "settle_time_passes", "primary_lost", "acquire", "lease_lost",
    "crash_poller", "poll_begins", "list", "report", "report_refused", "report_too_old", "stop",
    "revert", "clear", "report_actions", "actions_refused",
}  # fmt: skip

_done: dict[str, Verdict] = {}


def searched(model: Model) -> Verdict:
    """Each world is searched once, however many tests ask."""
    if model.name not in _done:
        _done[model.name] = explore(model)
    return _done[model.name]


@pytest.mark.xdist_group("model")
@pytest.mark.parametrize("model", right_models(), ids=lambda model: model.name)
def test_the_protocol_keeps_its_invariants_in_every_reachable_state(model: Model) -> None:
    verdict = searched(model)
    assert verdict.complete
    assert verdict.holds, f"{verdict.complaint}: {' > '.join(verdict.trace)}"


@pytest.mark.parametrize("broken", broken_models(), ids=lambda broken: broken.flaw)
def test_a_protocol_without_one_rule_is_caught(broken: Broken) -> None:
    verdict = explore(broken.model, symmetry=False)
    assert not verdict.holds, f"nothing breaks when {broken.meaning}"
    assert verdict.complaint


@pytest.mark.parametrize("flaw", SECOND_LINES)
def test_a_second_line_of_defence_does_no_harm_when_it_is_missing_alone(flaw: str) -> None:
    faults = Faults(crash=1, failover=1)
    verdict = explore(Lifecycle(Scenario("one task", roots=(1,), faults=faults).broken(flaw)))
    assert verdict.holds, "it is a rule that something depends on: move it to the flaws"


def test_every_flaw_is_searched_for() -> None:
    assert set(WORLD_OF_FLAW) | set(SECOND_LINES) == set(FLAWS)


@pytest.mark.xdist_group("model")
def test_every_action_fires_in_the_exhaustive_runs() -> None:
    fired = {action for world in WORLDS for action in searched(Lifecycle(world)).fired}
    assert fired == ACTIONS


@pytest.mark.parametrize("seed", [1, 2])
def test_random_walks_with_all_faults_come_to_rest(seed: int) -> None:
    verdict = wander(Lifecycle(WIDE), seed=seed, seconds=600, walks=15)
    assert verdict.holds, f"seed {seed}: {verdict.complaint}: {' > '.join(verdict.trace)}"


def test_random_walks_find_a_broken_rule_too() -> None:
    verdict = wander(Lifecycle(WIDE.broken("no_in_doubt")), seed=1, seconds=60)
    assert not verdict.holds
