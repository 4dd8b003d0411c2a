"""Engines that are stopped where a test wants it, on points that the engine itself enumerates."""

import math
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.flows.agreement import settle_and_judge
from tests.flows.stage import EngineProcess, Stage

ALL_POINTS = "PYATM_ALL_POINTS" in os.environ
SHARDS = 4 if ALL_POINTS else 1
"""With all points one test has too many of them for one process."""
RELEASE_AT = "after-claim_end_actions:2"
"""The jobs end when the runner has looked at its start and once more when it listens: then the
next look is the one that finds something, whatever the speed of the machine."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run of a flow that reaches the same points each time.

    Attributes:
        options: of the engine process.
        fault: arguments of the simulator's operation `fault`.
        job: arguments of its operation `job`.
        first_killed_at: an earlier process of the flow is killed here; the points are those of the
            process that recovers.
    """

    name: str
    flow: str
    disks: int = 2
    options: tuple[str, ...] = ()
    fault: dict[str, Any] = field(default_factory=dict[str, Any])
    job: dict[str, Any] = field(default_factory=dict[str, Any])
    first_killed_at: str | None = None

    def begin(self, stage: Stage, *options: str) -> EngineProcess:
        """Start the process whose points are meant; the jobs work until `release`."""

        async def prepare(control: Any) -> None:
            await control.default_job(None)
            if self.fault:
                await control.fault(**self.fault)
            if self.job:
                await control.job(**self.job)

        stage.steer(prepare)
        options = ("--points", "--rescan", "600", *options)
        flow = ("--flow", self.flow, "--vm", stage.add_vm(self.disks), *self.options)
        if self.first_killed_at is None:
            return stage.engine(*flow, *options)
        with stage.engine(*flow, "--pause-at", self.first_killed_at) as engine:
            engine.until("paused")
            kill(engine)
        return stage.engine(*options)

    def points(self, stage: Stage) -> list[str]:
        """What an undisturbed run reaches, in order."""
        with self.begin(stage) as engine:
            run_until(stage, engine, None)
            assert engine.finish() == 0
        release(stage)
        settle_and_judge(stage)
        names = [each["at"] for each in engine.all("point")]
        # How often it looks for work after the end depends on the time.
        end = names.index("ended:1")
        late = {name for name in names[end:] if "claim_end_actions" in name}
        return [name for name in names if name not in late]


def run_until(stage: Stage, engine: EngineProcess, point: str | None) -> None:
    """Wait until the engine stands still at the point, or has ended when there is none."""
    while (event := engine.next()) is not None:
        if event["event"] == "paused":
            assert event["at"] == point
            return
        if event.get("at") == RELEASE_AT:
            stage.control("finish")
    assert point is None, f"{point} was not reached: {engine.events[-5:]}"


def kill(engine: EngineProcess) -> None:
    """SIGKILL; nothing else may have ended it."""
    assert engine.child.poll() is None
    engine.child.send_signal(signal.SIGKILL)
    assert engine.child.wait(30) == -signal.SIGKILL


def release(stage: Stage) -> None:
    """No more faults; all jobs end, those that are begun later too."""

    async def end(control: Any) -> None:
        await control.remove_fault()
        await control.default_job(0.05)
        await control.finish()

    stage.steer(end)


def sample(points: Sequence[str], size: int, shard: int) -> list[str]:
    """All points of a shard, or about `size` of all, other ones in each run."""
    if ALL_POINTS:
        return list(points[shard::SHARDS])
    seed = int(os.environ.get("PYATM_KILL_SEED") or random.randrange(1000))
    print(f"PYATM_KILL_SEED={seed} chooses the same points again")
    step = math.ceil(len(points) / size)
    return list(points[seed % step :: step])
