"""Every function of schema `atm` that an engine calls: statement, arguments, reading of the rows.

The async and the sync client run these; neither has SQL of its own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, LiteralString, TypeVar
from uuid import UUID

from psycopg.types.json import Jsonb

from pyatm.engine.errors import Holder
from pyatm.engine.model import (
    CommandPlan,
    EndAction,
    EndedTask,
    Entity,
    EntityTask,
    PlannedTask,
    TaskState,
)

T = TypeVar("T")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of a function.

    Attributes:
        name: of the function.
        sql: the statement with named placeholders.
        read: turns the rows into the result.
    """

    name: str
    sql: LiteralString
    arguments: Mapping[str, Any] = field(repr=False)
    read: Callable[[Sequence[Row]], T] = field(repr=False)


def start_engine(engine_name: str) -> Call[int]:
    sql: LiteralString = "SELECT atm.start_engine(engine_name => %(name)s) AS epoch"
    return Call("start_engine", sql, {"name": engine_name}, lambda rows: int(rows[0]["epoch"]))


def plan_command(epoch: int, plan: CommandPlan) -> Call[tuple[PlannedTask, ...]]:
    sql: LiteralString = (
        "SELECT task_id, command_id, root_command_id, task_type, storage_pool_id, state"
        " FROM atm.plan_command(epoch => %(epoch)s, plan => %(plan)s)"
    )
    arguments = {"epoch": epoch, "plan": Jsonb(plan.document())}
    return Call("plan_command", sql, arguments, _rows(PlannedTask))


def add_tasks(epoch: int, command_id: UUID, addition: CommandPlan) -> Call[tuple[PlannedTask, ...]]:
    sql: LiteralString = (
        "SELECT task_id, command_id, root_command_id, task_type, storage_pool_id, state"
        " FROM atm.add_tasks(epoch => %(epoch)s, command_id => %(command_id)s, plan => %(plan)s)"
    )
    arguments = {"epoch": epoch, "command_id": command_id, "plan": Jsonb(addition.addition())}
    return Call("add_tasks", sql, arguments, _rows(PlannedTask))


def seal_command(epoch: int, command_id: UUID) -> Call[str]:
    sql: LiteralString = (
        "SELECT atm.seal_command(epoch => %(epoch)s, command_id => %(command_id)s) AS state"
    )
    return Call("seal_command", sql, {"epoch": epoch, "command_id": command_id}, _state)


def abort_command(epoch: int, command_id: UUID, reason: str, stop_running: bool) -> Call[str]:
    sql: LiteralString = (
        "SELECT atm.abort_command(epoch => %(epoch)s, command_id => %(command_id)s,"
        " reason => %(reason)s, stop_running => %(stop_running)s) AS state"
    )
    arguments = {
        "epoch": epoch,
        "command_id": command_id,
        "reason": reason,
        "stop_running": stop_running,
    }
    return Call("abort_command", sql, arguments, _state)


def submit_tasks(epoch: int, task_ids: Sequence[UUID]) -> Call[tuple[TaskState, ...]]:
    sql: LiteralString = (
        "SELECT task_id, state FROM atm.submit_tasks(epoch => %(epoch)s,"
        " task_ids => %(task_ids)s::uuid[])"
    )
    arguments = {"epoch": epoch, "task_ids": list(task_ids)}
    return Call("submit_tasks", sql, arguments, _rows(TaskState))


def bind_task(
    epoch: int, task_id: UUID, vdsm_task_id: UUID, submit_next: Sequence[UUID]
) -> Call[tuple[TaskState, ...]]:
    sql: LiteralString = (
        "SELECT task_id, state FROM atm.bind_task(epoch => %(epoch)s, task_id => %(task_id)s,"
        " vdsm_task_id => %(vdsm_task_id)s, submit_next => %(submit_next)s::uuid[])"
    )
    arguments = {
        "epoch": epoch,
        "task_id": task_id,
        "vdsm_task_id": vdsm_task_id,
        "submit_next": list(submit_next),
    }
    return Call("bind_task", sql, arguments, _rows(TaskState))


def fail_task(epoch: int, task_id: UUID, reason: str) -> Call[None]:
    sql: LiteralString = (
        "SELECT 1 AS done FROM atm.fail_task(epoch => %(epoch)s, task_id => %(task_id)s,"
        " reason => %(reason)s)"
    )
    arguments = {"epoch": epoch, "task_id": task_id, "reason": reason}
    return Call("fail_task", sql, arguments, _nothing)


def doubt_task(epoch: int, task_id: UUID, reason: str) -> Call[None]:
    sql: LiteralString = (
        "SELECT 1 AS done FROM atm.doubt_task(epoch => %(epoch)s, task_id => %(task_id)s,"
        " reason => %(reason)s)"
    )
    arguments = {"epoch": epoch, "task_id": task_id, "reason": reason}
    return Call("doubt_task", sql, arguments, _nothing)


def claim_end_actions(
    epoch: int, max_commands: int, lease: timedelta
) -> Call[tuple[EndAction, ...]]:
    sql: LiteralString = (
        "SELECT root_command_id, action_type, outcome, attempt, token, lease_until, parameters,"
        " tasks FROM atm.claim_end_actions(epoch => %(epoch)s, max_commands => %(max_commands)s,"
        " lease => %(lease)s)"
    )
    arguments = {"epoch": epoch, "max_commands": max_commands, "lease": lease}
    return Call("claim_end_actions", sql, arguments, _end_actions)


def extend_end_action(token: int, lease: timedelta) -> Call[None]:
    sql: LiteralString = (
        "SELECT 1 AS done FROM atm.extend_end_action(token => %(token)s, lease => %(lease)s)"
    )
    return Call("extend_end_action", sql, {"token": token, "lease": lease}, _nothing)


def finish_end_action(
    token: int, result: str, retry_after: timedelta | None, disposition: str, message: str | None
) -> Call[str]:
    sql: LiteralString = (
        "SELECT atm.finish_end_action(token => %(token)s, result => %(result)s,"
        " retry_after => %(retry_after)s, disposition => %(disposition)s,"
        " message => %(message)s) AS state"
    )
    arguments = {
        "token": token,
        "result": result,
        "retry_after": retry_after,
        "disposition": disposition,
        "message": message,
    }
    return Call("finish_end_action", sql, arguments, _state)


def set_pool(storage_pool_id: UUID, pool_name: str, hosts: Sequence[tuple[str, int]]) -> Call[None]:
    sql: LiteralString = (
        "SELECT 1 AS done FROM atm.set_pool(storage_pool_id => %(id)s, pool_name => %(name)s,"
        " hosts => %(hosts)s)"
    )
    places = [{"address": address, "port": port} for address, port in hosts]
    arguments = {"id": storage_pool_id, "name": pool_name, "hosts": Jsonb(places)}
    return Call("set_pool", sql, arguments, _nothing)


def entity_tasks(entity_type: str, entity_id: UUID) -> Call[tuple[EntityTask, ...]]:
    sql: LiteralString = (
        "SELECT task_id, command_id, root_command_id, state, access, since"
        " FROM atm.entity_tasks(entity_type => %(type)s, entity_id => %(id)s)"
    )
    arguments = {"type": entity_type, "id": entity_id}
    return Call("entity_tasks", sql, arguments, _rows(EntityTask))


def busy_entities(entities: Iterable[Entity]) -> Call[tuple[Row, ...]]:
    sql: LiteralString = "SELECT * FROM atm.busy_entities(entities => %(entities)s)"
    wanted = Jsonb([{"type": entity.type, "id": str(entity.id)} for entity in entities])
    return Call("busy_entities", sql, {"entities": wanted}, tuple)


def blockers(entities: Iterable[Entity]) -> Call[tuple[Holder, ...]]:
    sql: LiteralString = (
        "SELECT entity_type, entity_id, root_command_id, action_type, access, since"
        " FROM atm.blockers(entities => %(entities)s)"
    )
    wanted = Jsonb([entity.document() for entity in entities])
    return Call("blockers", sql, {"entities": wanted}, _rows(Holder))


def can_compensate(entity_type: str, entity_id: UUID) -> Call[bool]:
    sql: LiteralString = (
        "SELECT atm.can_compensate(entity_type => %(type)s, entity_id => %(id)s) AS possible"
    )
    arguments = {"type": entity_type, "id": entity_id}
    return Call("can_compensate", sql, arguments, lambda rows: bool(rows[0]["possible"]))


def _rows(kind: Callable[..., T]) -> Callable[[Sequence[Row]], tuple[T, ...]]:
    return lambda rows: tuple(kind(**row) for row in rows)


def _state(rows: Sequence[Row]) -> str:
    return str(rows[0]["state"])


def _nothing(rows: Sequence[Row]) -> None:
    del rows


def _end_actions(rows: Sequence[Row]) -> tuple[EndAction, ...]:
    return tuple(
        EndAction(
            root_command_id=row["root_command_id"],
            action_type=row["action_type"],
            outcome=row["outcome"],
            attempt=row["attempt"],
            token=row["token"],
            lease_until=row["lease_until"],
            parameters=row["parameters"] or {},
            tasks=tuple(EndedTask.read(task) for task in row["tasks"] or ()),
        )
        for row in rows
    )
