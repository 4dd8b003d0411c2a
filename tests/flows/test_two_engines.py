"""Two engine processes at once: side by side on one VM, or the older one of a name fenced."""

import random
import signal
import time

import pytest

from tests.flows.agreement import settle_and_judge
from tests.flows.kills import SHARDS, Scenario, kill, release, run_until, sample
from tests.flows.stage import EngineProcess, Stage

TEMPLATE = Scenario("template", "create-template", disks=1)
WINDOW = 4.0
"""Seconds; VDSM gets nothing from a fenced engine later than that."""
FENCED = Scenario("fenced", "remove-vm", options=("--submit-window", str(WINDOW)))


def template(stage: Stage, vm_id: str, name: str, point: str) -> EngineProcess:
    """An engine that makes a template of the VM and stands still at the point."""
    options = ("--flow", "create-template", "--vm", vm_id, "--engine", name)
    engine = stage.engine(*options, "--points", "--rescan", "600", "--pause-at", point)
    run_until(stage, engine, point)
    return engine


@pytest.mark.parametrize("shard", range(SHARDS))
def test_one_of_two_readers_is_killed_while_the_other_stands_still(
    stage: Stage, shard: int
) -> None:
    points = TEMPLATE.points(stage)
    for point in sample(points, 4, shard):
        # A plan that is not committed keeps the VM's row, and the other would have to wait.
        other = random.choice([name for name in points if name != "commit-plan_command:1"])
        print(f"killed at {point} while another stands at {other}")
        stage.control("default_job", None)
        vm_id = stage.add_vm(1)
        with (
            template(stage, vm_id, "other", other) as beside,
            template(stage, vm_id, "reference", point) as engine,
        ):
            kill(engine)
            release(stage)
            beside.resume()
            with stage.engine() as again:
                assert again.finish() == 0, again.events
            assert beside.finish() == 0, beside.events
        settle_and_judge(stage)


def test_a_dead_reader_and_a_living_one_both_refuse_a_removal(stage: Stage) -> None:
    stage.control("default_job", None)
    vm_id = stage.add_vm(1)
    remove = ("--flow", "remove-vm", "--vm", vm_id, "--engine", "third")
    with (
        template(stage, vm_id, "other", "submitted:1") as beside,
        template(stage, vm_id, "reference", "submitted:1") as engine,
    ):
        kill(engine)
        commands = [each.all("planned")[0]["command_id"] for each in (beside, engine)]
        with stage.engine(*remove) as third:
            assert third.finish() == 4
            message = third.all("error")[0]["message"]
        for command in commands:
            assert f"AddVmTemplate {command}" in message
        release(stage)
        beside.resume()
        with stage.engine() as again:
            assert again.finish() == 0
        assert beside.finish() == 0
    settle_and_judge(stage)
    assert [effect for _, effect in stage.effects()] == ["succeeded"] * 2
    with stage.engine(*remove) as third:
        assert third.finish() == 0
    settle_and_judge(stage)
    assert stage.one("select count(*) from pyatm_inventory.vm") == 0


@pytest.mark.parametrize("shard", range(SHARDS))
def test_an_older_engine_that_goes_on_later_changes_nothing(stage: Stage, shard: int) -> None:
    # What it sends within its window must be known before the doubt is settled.
    stage.db.execute("select atm.set_setting('in_doubt_settle', '6 s', 'test')")
    points = FENCED.points(stage)
    living = points[points.index("started:1") : points.index("idle:1")]
    for point in sample(living, 4, shard):
        fence_at(stage, point, late=random.random() < 0.5)


def fence_at(stage: Stage, point: str, *, late: bool) -> None:
    """The older one stands still, a newer one starts, the older one goes on."""
    print(f"fenced at {point}, late: {late}")
    with FENCED.begin(stage, "--pause-at", point) as old:
        run_until(stage, old, point)
        stopped = time.monotonic()
        epoch = old.all("started")[0]["epoch"]
        with stage.engine("--stay") as new:
            stage.until(lambda: newer(stage, epoch), "the newer engine has started or waits")
            if late:
                time.sleep(max(stopped + WINDOW + 0.2 - time.monotonic(), 0))
            old.resume()
            code = old.finish()
            if code == 0:
                # Its last commit was before the newer one, and nothing was left to write.
                assert point == "commit-finish_end_action:1"
                assert old.all("idle")
            else:
                assert code == 3, old.events[-5:]
                assert "has been started again elsewhere" in old.all("error")[0]["message"]
            release(stage)
            settle_and_judge(stage)
            new.child.send_signal(signal.SIGTERM)
            assert new.finish() == 0, new.events[-5:]


def newer(stage: Stage, epoch: int) -> bool:
    """Whether the newer engine has started, or waits for a transaction of the older one."""
    return stage.one(
        "select exists (select from atm.engines where engine_name = 'reference' and epoch > %s)"
        " or exists (select from pg_stat_activity where datname = current_database()"
        " and wait_event_type = 'Lock')",
        epoch,
    )
