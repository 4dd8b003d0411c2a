"""The engine is killed at every point that it reaches, and started again.

The points are those that an undisturbed run of the flow reports; nobody keeps a list of them. One
stage serves many kills: each command is over and cleared before the next begins.
"""

import os
import uuid

import pytest

from tests.flows.stage import POOL, EngineProcess, Stage

SHARDS = 4
OPTIONS = {
    "remove-vm": ("remove-vm", "--disks", "2"),
    "hibernate-vm": ("hibernate-vm", "--disks", "1"),
    "create-template": ("create-template", "--disks", "2"),
    "create-snapshot": ("create-snapshot", "--disks", "1"),
}
STEP = {"remove-vm": 1, "hibernate-vm": 12, "create-template": 12, "create-snapshot": 12}
"""Of the flows that differ only in their verbs, every twelfth point; PYATM_ALL_POINTS takes all."""


def points_of(stage: Stage, flow: str) -> list[str]:
    """What an undisturbed run reaches; claims are repeated until one finds something."""
    engine = stage.run(*OPTIONS[flow], "--points")
    assert engine.all("ended")[0]["outcome"] == "succeeded"
    stage.until_clean()
    names = [each["at"] for each in engine.all("point")]
    first_claim = names.index("ready:1")
    # How often it looks for work depends on the time; the first of these stands for the others.
    idle = {name for name in names[:first_claim] if "claim_end_actions" in name}
    return [name for name in names if name not in idle or name.endswith(":1")]


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("flow", OPTIONS)
def test_a_killed_engine_ends_with_success_only_if_all_was_executed(
    stage: Stage, flow: str, shard: int
) -> None:
    points = points_of(stage, flow)
    assert len(points) > 20, points
    step = 1 if "PYATM_ALL_POINTS" in os.environ else STEP[flow]
    for point in points[shard :: SHARDS * step]:
        kill_at(stage, flow, point)


def kill_at(stage: Stage, flow: str, point: str) -> None:
    """One kill, one restart, and what must hold afterwards."""
    effects, executed = len(stage.effects()), len(stage.executed())
    with stage.engine("--flow", *OPTIONS[flow], "--pause-at", point) as engine:
        if not paused(engine):
            return  # a point that depends on the time was not reached
        engine.kill()
    with stage.engine() as engine:
        assert engine.finish() == 0, engine.events
    stage.until_clean()
    outcomes = stage.effects()[effects:]
    done = len(stage.executed()) - executed
    assert len(outcomes) <= 1, (point, outcomes)
    if not outcomes:
        assert done == 0, (point, "VDSM worked for a command that was never planned")
        return
    root, outcome = outcomes[0]
    tasks = stage.one(
        "select jsonb_array_length(tasks) from atm.history where command_id = %s", root
    )
    assert outcome in ("succeeded", "failed"), point
    if outcome == "succeeded":
        assert done == tasks, point
    check_inventory(stage, flow, root, point)


def paused(engine: EngineProcess) -> bool:
    """Wait until it stands still; False when it ended without coming by."""
    while True:
        event = engine.next()
        if event is None or event["event"] == "paused":
            return event is not None


def check_inventory(stage: Stage, flow: str, root: uuid.UUID, point: str) -> None:
    """The inventory says nothing that the storage contradicts, and nothing stays locked."""
    on_disk = stage.control("images", POOL)
    removed = stage.removed_images()
    for disk_id, state in stage.disks().items():
        assert state != "LOCKED", (flow, root, point, disk_id)
        if state == "OK":
            assert disk_id not in removed, (flow, root, point, disk_id)
    for disk_id in on_disk:
        assert disk_id in stage.disks(), (flow, root, point, disk_id)
    assert stage.rows("select * from pyatm_inventory.vm where state = 'LOCKED'") == [], point
