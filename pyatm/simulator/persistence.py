"""Tasks and pool metadata on the master storage domain, so that they survive their process.

``<directory>/<pool>/mastersd/master/tasks/<task>/`` holds text files with ``key = value`` lines
(values in JSON): ``.task`` (what it is, and its state), ``.recover.0`` (a rollback step is
registered), ``.result`` (only of a success). ``mastersd/dom_md/metadata`` holds the SPM's id and
the version of its lease, ``spm.lease`` is locked by the process that is SPM.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyatm.simulator.locks import LockRequest
from pyatm.simulator.states import State
from pyatm.simulator.storage import MASTER
from pyatm.simulator.task import Task, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NOBODY: Final = -1


class UnreadableTaskError(ValueError):
    """The files of a task cannot be read; VDSM leaves such a task out."""


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task as it was found on disk."""

    task_id: str
    spec: TaskSpec
    state: State
    rollback_registered: bool
    result: str | None


class MasterDomain:
    """The master storage domain of one pool, seen from one host.

    Args:
        directory: the storage directory.
        pool_id: the pool.
    """

    def __init__(self, directory: Path, pool_id: str) -> None:
        self.pool_id = pool_id
        self.mounted = False
        """Only the SPM has it mounted: otherwise nothing is written, and nothing removed."""
        self._domain = directory / pool_id / MASTER
        self._tasks = self._domain / "master" / "tasks"
        self._metadata = self._domain / "dom_md" / "metadata"
        self._lease: int | None = None
        for path in (self._tasks, self._metadata.parent):
            path.mkdir(parents=True, exist_ok=True)

    def read_spm(self) -> tuple[int, int]:
        """Id of the SPM and version of its lease as the pool knows them, -1: none."""
        if not self._metadata.exists():
            return NOBODY, NOBODY
        values = _parse(self._metadata.read_text())
        return int(values["POOL_SPM_ID"]), int(values["POOL_SPM_LVER"])

    def write_spm(self, spm_id: int, lver: int) -> None:
        _write(self._metadata, {"POOL_SPM_ID": spm_id, "POOL_SPM_LVER": lver})

    def take_lease(self) -> bool:
        """Lock the lease; False when another living process holds it."""
        lease = os.open(self._domain / "spm.lease", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lease)
            return False
        self._lease = lease
        return True

    def release_lease(self) -> None:
        """Give the lease back, unmount the domain."""
        self.mounted = False
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None

    def save(self, task: Task) -> None:
        """Write what the task is and its state."""
        if not self.mounted:
            return
        directory = self._tasks / task.task_id
        directory.mkdir(exist_ok=True)
        spec = task.spec
        _write(
            directory / ".task",
            {
                "id": task.task_id,
                "name": spec.verb,
                "tag": spec.tag,
                "state": str(task.state),
                "params": spec.params,
                "correlationId": spec.correlation_id,
                "resources": [[lock.resource, lock.exclusive] for lock in spec.locks],
            },
        )

    def save_result(self, task: Task) -> None:
        """Write the result of a success, as the text that VDSM makes of it."""
        if self.mounted:
            result = task.result if isinstance(task.result, str) else repr(task.result)
            _write(self._tasks / task.task_id / ".result", {"result": result})

    def save_rollback(self, task: Task) -> None:
        """Write that a rollback step is registered."""
        if self.mounted:
            _write(self._tasks / task.task_id / ".recover.0", {"name": task.spec.verb})

    def remove(self, task: Task) -> None:
        """Remove the task's files; errors are ignored, so it may come back as a ghost."""
        if self.mounted:
            shutil.rmtree(self._tasks / task.task_id, ignore_errors=True)

    def load(self) -> Iterator[tuple[str, StoredTask | UnreadableTaskError]]:
        """Every stored task by id, or why it cannot be read; in no order that means anything."""
        for directory in self._tasks.iterdir():
            try:
                yield directory.name, self._load(directory)
            except (OSError, KeyError, ValueError, TypeError) as error:
                yield directory.name, UnreadableTaskError(f"{type(error).__name__}: {error}")

    def damage(self, task_id: str) -> None:
        """Make the files of a task unreadable.

        Raises FileNotFoundError when the task has none.
        """
        (self._tasks / task_id / ".task").write_bytes(b"\xff\xfe torn")

    def stored_ids(self) -> set[str]:
        """Ids of all tasks that have files.

        Killed while it removed a task, VDSM may leave an empty directory, which is no task any
        more: nobody can read or clear it.
        """
        return {directory.name for directory in self._tasks.iterdir() if any(directory.iterdir())}

    def _load(self, directory: Path) -> StoredTask:
        values = _parse((directory / ".task").read_text())
        result = directory / ".result"
        spec = TaskSpec(
            verb=values["name"],
            pool_id=self.pool_id,
            tag=values["tag"],
            params=values["params"],
            locks=tuple(LockRequest(name, alone) for name, alone in values["resources"]),
            correlation_id=values["correlationId"],
        )
        if values["id"] != directory.name:
            raise ValueError(f"the files of {directory.name} are those of {values['id']}")
        return StoredTask(
            task_id=directory.name,
            spec=spec,
            state=State(values["state"]),
            rollback_registered=(directory / ".recover.0").exists(),
            result=_parse(result.read_text())["result"] if result.exists() else None,
        )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file in one step: a process killed in between leaves the old one."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    temporary.replace(path)


def _parse(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for line in text.splitlines():
        key, equals, value = line.partition(" = ")
        if not equals:
            raise ValueError(f"not a line of the form key = value: {line[:80]!r}")
        values[key] = json.loads(value)
    return values
