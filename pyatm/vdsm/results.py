"""What VDSM's verbs answer, as small frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyatm.vdsm import jsonrpc

if TYPE_CHECKING:
    from pyatm.vdsm.errors import Json


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A task as VDSM reports it; the fields are VDSM's, as they came.

    :param task_id: VDSM's id, lower case.
    :param state: ``init``, ``running``, ``aborting``, ``cleaning``, ``finished`` or ``unknown``.
    :param result: ``success``, ``cleanSuccess``, ``cleanFailure``; empty until finished.
    :param code: error code of the work or the rollback. 0 does **not** mean success.
    :param message: VDSM's text.
    """

    task_id: str
    state: str
    result: str
    code: int
    message: str

    @property
    def ended(self) -> bool:
        """The task is over: VDSM will not work on its own for it any more."""
        return self.state == "finished"

    @property
    def succeeded(self) -> bool:
        """The task is over and its work stands (nothing was rolled back)."""
        return self.ended and self.result == "success"


@dataclass(frozen=True, slots=True)
class TaskStatuses:
    """The answer to ``Host.getAllTasksStatuses``: JSON text, taken apart only when asked.

    :param raw: the map ``{task id: status}`` as VDSM wrote it (a lone surrogate, which no strict
        JSON parser takes, excepted: it became U+FFFD).
    """

    raw: str

    def for_jsonb(self) -> str:
        """``raw`` as PostgreSQL's ``jsonb`` can hold it: NUL in a text became U+FFFD.

        One such message would otherwise make the whole listing unreadable.
        """
        if "\\u0000" not in self.raw:
            return self.raw
        return jsonrpc.without(jsonrpc.NUL, self.raw.encode()).decode()

    def parse(self) -> dict[str, TaskStatus]:
        """The statuses by task id. Entries that are not of the documented shape are left out."""
        entries = jsonrpc.value(self.raw)
        found: dict[str, TaskStatus] = {}
        if isinstance(entries, dict):
            for task_id, entry in entries.items():
                try:
                    found[task_id] = task_status(entry)
                except ValueError:
                    continue
        return found


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task's id and the storage function behind it, such as ``deleteImage``."""

    task_id: str
    verb: str


@dataclass(frozen=True, slots=True)
class SpmStatus:
    """A host's role in a pool, and what the pool itself says about its SPM.

    :param role: ``SPM``, ``Contend`` or ``Free``: the role of the host that was asked.
    :param lver: incarnation of the SPM role, grows by 1 with each start; -1 none. Kept by the
        pool, so the value of a crashed SPM stays until another host starts.
    :param spm_id: host id within the pool of the last SPM; -1 none.
    """

    role: str
    lver: int
    spm_id: int

    @property
    def is_spm(self) -> bool:
        """The host that was asked is the SPM."""
        return self.role == "SPM"


def task_status(value: Json) -> TaskStatus:
    """A status from its JSON value; ``ValueError`` names the field that is not as documented."""
    fields = _object(value)
    return TaskStatus(
        task_id=_text(fields, "taskID"),
        state=_text(fields, "taskState"),
        result=_text(fields, "taskResult"),
        code=_integer(fields, "code"),
        message=_text(fields, "message"),
    )


def task_info(value: Json) -> TaskInfo:
    """A task's info from its JSON value; ``ValueError`` as for :func:`task_status`."""
    fields = _object(value)
    return TaskInfo(task_id=_text(fields, "id"), verb=_text(fields, "verb"))


def task_infos(value: Json) -> dict[str, TaskInfo]:
    """The infos of all tasks by id."""
    return {task_id: task_info(entry) for task_id, entry in _object(value).items()}


def spm_status(value: Json) -> SpmStatus:
    """A host's SPM status from its JSON value; ``ValueError`` as for :func:`task_status`."""
    fields = _object(value)
    return SpmStatus(
        role=_text(fields, "spmStatus"),
        lver=_integer(fields, "spmLver"),
        spm_id=_integer(fields, "spmId"),
    )


def task_id(value: Json) -> str:
    """The id that a creating verb answers with."""
    if not isinstance(value, str) or not value:
        raise ValueError("a task id (a non-empty text)")
    return value


def true(value: Json) -> None:
    """The answer of a verb that has nothing to say."""
    if value is not True:
        raise ValueError("true")


def _object(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ValueError("an object")
    return value


def _text(fields: dict[str, Json], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise ValueError(f"a text in {name!r}")
    return value


def _integer(fields: dict[str, Json], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"an integer in {name!r}")
    return value
