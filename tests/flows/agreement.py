"""What must hold when everything is over: told from the simulator's records, not from ours."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyatm.simulator.execution_log import read_events
from tests.flows.stage import POOL, Stage


@dataclass(frozen=True, slots=True)
class Past:
    """A task of a command that is over.

    Attributes:
        image: that it makes or removes.
        outcome, vdsm_task_id, vdsm_result: as the history has them.
    """

    command_id: str
    command_outcome: str
    task_id: str
    task_type: str
    image: str
    outcome: str
    vdsm_task_id: str | None
    vdsm_result: str | None

    @property
    def leaves_doubt(self) -> bool:
        """Whether the image may be in any state afterwards."""
        if self.outcome in ("in_doubt", "lost") or self.vdsm_result == "cleanFailure":
            return True
        # A removal that has begun cannot be undone.
        return (
            self.task_type == "deleteImage"
            and self.outcome == "failed"
            and self.vdsm_task_id is not None
        )


def settle_and_judge(stage: Stage) -> None:
    """Nothing is left, the log bears out every outcome, the inventory is what is on disk."""
    stage.until_clean()
    tasks = list(past_tasks(stage))
    judge_outcomes(stage, tasks)
    judge_effects(stage)
    judge_inventory(stage, tasks)


def past_tasks(stage: Stage) -> Iterator[Past]:
    """The tasks of all commands in the history."""
    for command_id, outcome, plan, tasks in stage.rows(
        "select command_id::text, outcome, plan, tasks from atm.history"
    ):
        planned = dict(_planned(plan))
        for task in tasks or ():
            parameters = planned[task["task_id"]]
            yield Past(
                command_id,
                outcome,
                task["task_id"],
                task["task_type"],
                str(parameters.get("dstImgUUID") or parameters["imageID"]),
                task["outcome"],
                task["vdsm_task_id"],
                task["vdsm_result"],
            )


def _planned(command: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for task in command["tasks"]:
        yield task["task_id"], task["parameters"]
    for child in command["children"]:
        yield from _planned(child)


def judge_outcomes(stage: Stage, tasks: list[Past]) -> None:
    """Success is claimed for what VDSM executed, and nothing was sent twice or unplanned."""
    events = read_events(stage.directory / "vdsm")
    sent = Counter(
        event.details.get("correlation_id") for event in events if event.event == "created"
    )
    assert set(sent) <= {task.task_id for task in tasks}, "VDSM got a task that was never planned"
    assert set(sent.values()) <= {1}, "a task was sent twice"
    executed = {
        event.task_id
        for event in events
        if event.event == "finished" and event.details["result"] == "success"
    }
    for task in tasks:
        if task.outcome == "succeeded":
            assert task.vdsm_task_id in executed, f"not executed: {task}"
        elif task.outcome == "not_submitted":
            assert task.task_id not in sent, f"was sent: {task}"
    for task in tasks:
        if task.command_outcome == "succeeded":
            assert task.outcome == "succeeded", f"command succeeded without {task}"


def judge_effects(stage: Stage) -> None:
    """Each command that is over had its effect exactly once."""
    effects = stage.effects()
    assert len({root for root, _ in effects}) == len(effects), f"twice: {effects}"
    told = dict(stage.rows("select command_id, outcome from atm.history"))
    assert dict(effects) == told


def judge_inventory(stage: Stage, tasks: list[Past]) -> None:
    """The rows say what is on the storage; ILLEGAL is only what may be in any state."""
    on_disk: dict[str, Any] = stage.control("images", POOL)
    rows = stage.rows(
        "select d.disk_id::text, d.volume_id::text, d.kind, d.state, (select count(*) from"
        " pyatm_inventory.snapshot s where s.vm_id = d.owner_id and s.state = 'OK')"
        " from pyatm_inventory.disk d"
    )
    doubtful = {task.image for task in tasks if task.leaves_doubt}
    for disk_id, volume_id, kind, state, snapshots in rows:
        if state == "ILLEGAL":
            assert disk_id in doubtful, f"disk {disk_id} is ILLEGAL without a reason"
            continue
        assert state == "OK", f"disk {disk_id} is {state}"
        assert disk_id in on_disk, f"disk {disk_id} is not on the storage"
        image = on_disk[disk_id]
        assert not image["removing"], f"disk {disk_id} is being removed"
        assert image["volumes"].get(volume_id) == "legal", f"disk {disk_id}: {image}"
        volumes = 1 + (snapshots if kind == "DATA" else 0)
        assert len(image["volumes"]) == volumes, f"disk {disk_id}: {image}"
    known = {row[0] for row in rows}
    assert set(on_disk) <= known, f"left on the storage: {set(on_disk) - known}"
    gone = stage.made - known
    assert gone <= stage.removed_images(), f"not removed: {gone - stage.removed_images()}"
    for table in ("vm", "template", "snapshot"):
        locked = stage.rows(f"select * from pyatm_inventory.{table} where state = 'LOCKED'")
        assert locked == [], f"{table} {locked}"
    assert stage.rows("select * from pyatm_inventory.reverting") == []
    _judge_power(stage)


def _judge_power(stage: Stage) -> None:
    hibernated = {
        event.details["vm_id"]
        for event in read_events(stage.directory / "vdsm")
        if event.event == "vm_hibernated"
    }
    for vm_id, power, memory in stage.rows(
        "select v.vm_id::text, v.power, (select count(*) from pyatm_inventory.disk d"
        " where d.owner_id = v.vm_id and d.kind <> 'DATA' and d.state = 'OK')"
        " from pyatm_inventory.vm v"
    ):
        assert memory == (2 if power == "Suspended" else 0), f"VM {vm_id} is {power}"
        if power == "Suspended":
            assert vm_id in hibernated, f"VM {vm_id} was never hibernated"
