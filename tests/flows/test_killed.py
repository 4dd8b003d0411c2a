"""The engine is killed at every point that it reaches, and started again.

The points are those that an undisturbed run reports: before and after each commit, each call of
VDSM and its answer, and inside endActions. Nobody keeps a list of them. One stage serves many
kills: each command is over and cleared before the next begins. By default each run takes a sample
that changes with the seed; `make kill-points` takes all.
"""

import pytest

from tests.flows.agreement import settle_and_judge
from tests.flows.kills import SHARDS, Scenario, kill, release, run_until, sample
from tests.flows.stage import Stage

SUCCESSES = [
    Scenario("remove-vm", "remove-vm"),
    Scenario("hibernate-vm", "hibernate-vm", disks=1),
    Scenario("create-template", "create-template"),
    Scenario("create-snapshot", "create-snapshot", disks=1, options=("--memory",)),
]
TROUBLES = [
    Scenario("refused", "create-snapshot", fault={"action": "refuse", "method": "create"}),
    Scenario(
        "answer lost",
        "remove-vm",
        options=("--answer-timeout", "2"),
        fault={"action": "lose_answer", "method": "create", "skip": 1},
    ),
    Scenario("job failed", "create-template", job={"count": 1, "failure": {"code": 205}}),
    Scenario("host refused", "hibernate-vm", fault={"action": "refuse", "method": "VM.hibernate"}),
    Scenario("restart", "create-snapshot", first_killed_at="bound:1"),
]


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("scenario", SUCCESSES, ids=lambda scenario: scenario.name)
def test_a_killed_engine_ends_with_success_only_if_all_was_executed(
    stage: Stage, scenario: Scenario, shard: int
) -> None:
    points = scenario.points(stage)
    assert stage.effects()[0][1] == "succeeded"
    assert len(points) > 40, points
    for point in sample(points, 6, shard):
        kill_at(stage, scenario, point)


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("scenario", TROUBLES, ids=lambda scenario: scenario.name)
def test_an_engine_that_is_killed_in_trouble_leaves_everything_right(
    stage: Stage, scenario: Scenario, shard: int
) -> None:
    points = scenario.points(stage)
    if scenario.name != "host refused":
        assert stage.effects()[0][1] == "failed"
    for point in sample(points, 3, shard):
        kill_at(stage, scenario, point)


def test_an_engine_is_killed_while_it_extends_its_claim(stage: Stage) -> None:
    slow = {"action": "delay_answer", "method": "VM.hibernate", "seconds": 3.0}
    scenario = Scenario("slow", "hibernate-vm", options=("--lease", "1.5"), fault=slow)
    for when in ("before", "commit", "after"):
        kill_at(stage, scenario, f"{when}-extend_end_action:1")


def kill_at(stage: Stage, scenario: Scenario, point: str) -> None:
    """One kill, one restart, and what must hold afterwards."""
    print(f"{scenario.name}: killed at {point}")
    with scenario.begin(stage, "--pause-at", point) as engine:
        run_until(stage, engine, point)
        kill(engine)
    release(stage)
    with stage.engine() as engine:
        assert engine.finish() == 0, engine.events
    settle_and_judge(stage)
