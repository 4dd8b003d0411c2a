"""The SQLSTATEs of schema `atm` as exceptions, named for what the caller can do about them."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg


class EngineError(Exception):
    """A function of schema `atm` refused; nothing was changed.

    Attributes:
        code: the SQLSTATE, as in the view `atm.errors`.
        detail: more about it, None when the server sent none.
        hint: the remedy, None when the server sent none.
    """

    def __init__(self, message: str, code: str, detail: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.code, self.detail, self.hint = code, detail, hint


class BadCall(EngineError):
    """AT0xx: an argument or a plan is wrong; the message names it."""


class UnknownPool(BadCall):
    """AT007: the storage pool is not set; call `set_pool` first."""


class NotFound(BadCall):
    """AT008: there is no such command or task."""


class WrongState(EngineError):
    """AT1xx: not possible in the state of the command, task or pool."""


class OtherPlan(WrongState):
    """AT101: the command is planned already, with another plan."""


class InHistory(WrongState):
    """AT102: the command is over."""


class CommandClosed(WrongState):
    """AT103: the command takes no more tasks."""


class WrongTaskState(WrongState):
    """AT104: the task is not in a state in which this can be done."""


class StaleWrite(EngineError):
    """AT2xx: somebody newer has taken over."""


class StaleEpoch(StaleWrite):
    """AT201: this engine has been started again elsewhere; this process must stop."""


class StaleToken(StaleWrite):
    """AT203: the endAction was finished or claimed again; its transaction must not commit."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds an entity.

    Attributes:
        access: `shared` or `exclusive`.
        since: when the holder took it.
    """

    entity_type: str
    entity_id: UUID
    root_command_id: UUID
    action_type: str
    access: str
    since: datetime

    def __str__(self) -> str:
        return (
            f"{self.entity_type} {self.entity_id} is held ({self.access}) by {self.action_type} "
            f"{self.root_command_id} since {self.since:%Y-%m-%d %H:%M:%S}"
        )


class EntityBusy(EngineError):
    """AT301: other commands hold entities in a conflicting way.

    Attributes:
        holders: who they are, as far as the server could see them.
    """

    def __init__(self, message: str, code: str, detail: str | None = None, hint: str | None = None):
        super().__init__(message, code, detail, hint)
        self.holders = _holders(detail)


_BY_CODE: Final[dict[str, type[EngineError]]] = {
    "AT007": UnknownPool,
    "AT008": NotFound,
    "AT101": OtherPlan,
    "AT102": InHistory,
    "AT103": CommandClosed,
    "AT104": WrongTaskState,
    "AT201": StaleEpoch,
    "AT203": StaleToken,
    "AT301": EntityBusy,
}
_BY_CLASS: Final[dict[str, type[EngineError]]] = {
    "AT0": BadCall,
    "AT1": WrongState,
    "AT2": StaleWrite,
    "AT3": EntityBusy,
}
RETRYABLE: Final = ("40001", "40P01")
"""Serialization failure and deadlock: the whole transaction is to be repeated."""


def named(error: psycopg.Error) -> EngineError | None:
    """The exception for a server error of schema `atm`, None for any other error."""
    code = error.sqlstate or ""
    kind = _BY_CODE.get(code) or _BY_CLASS.get(code[:3])
    if kind is None or len(code) != 5:
        return None
    diag = error.diag
    text = diag.message_primary or str(error)
    return kind(text, code, diag.message_detail, diag.message_hint)


def is_connection_loss(error: psycopg.Error) -> bool:
    """Whether the connection ended, so that nobody knows if an open COMMIT was executed."""
    code = error.sqlstate
    if code is None:
        return isinstance(error, psycopg.OperationalError)
    return code.startswith("08") or code in ("57P01", "57P02", "57P03")


def _holders(detail: str | None) -> tuple[Holder, ...]:
    try:
        entries: Any = json.loads(detail or "[]")
        return tuple(
            Holder(
                entity_type=entry["entity_type"],
                entity_id=UUID(entry["entity_id"]),
                root_command_id=UUID(entry["root_command_id"]),
                action_type=entry["action_type"],
                access=entry["access"],
                since=datetime.fromisoformat(entry["since"]),
            )
            for entry in entries
        )
    except (ValueError, KeyError, TypeError):
        # The refusal stands all the same; detail has the text as it came.
        return ()
