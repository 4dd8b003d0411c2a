"""A short run of the chaos around the poller; `make chaos-poller MINUTES=60` is the long one."""

import os
import random
from pathlib import Path

import pytest

from pyatm.simulator.execution_log import ExecutionEvent
from tests.crash.evidence import Ended, EndedTask
from tests.crash.poller_chaos.__main__ import run
from tests.crash.poller_chaos.verdict import demanded_outcomes
from tests.crash.poller_chaos.world import World

SECONDS = 12.0


async def test_every_command_ends_as_the_execution_log_demands(dsn: str, tmp_path: Path) -> None:
    # Another one each time; a run that fails prints it.
    seed = int(os.environ.get("PYATM_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PYATM_CHAOS_SEED={seed}")
    world = World(tmp_path, dsn)
    try:
        assert await run(world, SECONDS, seed) == []
    finally:
        world.stop()


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "lost"])
@pytest.mark.parametrize("result", ["success", "cleanSuccess"])
def test_an_outcome_that_the_execution_log_does_not_demand_is_named(
    outcome: str, result: str
) -> None:
    events = [
        ExecutionEvent(1.0, "created", 1, task_id="v", details={"correlation_id": "t"}),
        ExecutionEvent(2.0, "work_done", 1, task_id="v"),
        ExecutionEvent(3.0, "finished", 1, task_id="v", details={"result": result}),
    ]
    ended = {"r": Ended("r", outcome, False, 4.0, (EndedTask("t", outcome, "v", 1.5, 3.5),))}
    right = (outcome, result) in {("succeeded", "success"), ("failed", "cleanSuccess")}
    assert bool(list(demanded_outcomes(ended, events))) is not right
