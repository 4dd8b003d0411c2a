"""Single calls beside their floor: report_poll, a large plan, entity lookups."""

import json
import time
from statistics import median
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from pyatm.bench.lifecycle import PLAN, REPORT, Lifecycle, plan
from pyatm.bench.measure import Connection

Statements = dict[str, LiteralString]
RUNNING = {"taskState": "running", "taskResult": "", "code": 0, "message": "running"}
BLOCK = 25
LOOKUP: LiteralString = "SELECT * FROM atm.entity_tasks(entity_type => 'Disk', entity_id => %s)"


def timed(connection: Connection, sql: LiteralString, arguments: Any) -> float:
    """Seconds of one statement, its rows included."""
    begin = time.perf_counter()
    connection.execute(sql, arguments, prepare=True).fetchall()
    return time.perf_counter() - begin


def _warmed(connection: Connection, sql: LiteralString, arguments: Any) -> None:
    """Until the plan is cached: psycopg and PostgreSQL both count executions first."""
    for _ in range(10):
        timed(connection, sql, arguments)


def _ms(values: list[float]) -> float:
    return round(median(values) * 1000, 3)


def _ratio(values: list[float], floor: list[float]) -> float:
    return round(median(values) / median(floor), 2)


def report_poll(dsn: str, work: Lifecycle, sql: Statements, tasks: int, rounds: int) -> Any:
    """A pool with many running tasks: nothing changed, and 1 % changed.

    Args:
        dsn: the database.
        work: whose pool is used; it has no other tasks.
        sql: statements of the floor.
        tasks: running ones.
        rounds: of each measurement.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        listing = _running_tasks(connection, work, tasks)
        changes = max(1, tasks // 100)
        unchanged: list[float] = []
        changed: list[float] = []
        bare: list[float] = []
        _report(connection, work, listing)
        written = _task_writes(connection, sql)
        for _ in range(rounds):
            bare.append(timed(connection, sql["bare_each"], {"statuses": json.dumps(listing)}))
            unchanged.append(_report(connection, work, listing))
        written = _task_writes(connection, sql) - written
        for number in range(rounds):
            for key in list(listing)[:changes]:
                listing[key] = {**RUNNING, "message": f"step {number}"}
            changed.append(_report(connection, work, listing))
    return {
        "tasks": tasks,
        "unchanged_ms": _ms(unchanged),
        "jsonb_each_ms": _ms(bare),
        "ratio_to_jsonb_each": _ratio(unchanged, bare),
        "task_rows_written": written,
        "changes": changes,
        "changed_ms": _ms(changed),
    }


def _running_tasks(
    connection: Connection, work: Lifecycle, tasks: int
) -> dict[str, dict[str, Any]]:
    listing: dict[str, dict[str, Any]] = {}
    for _ in range(0, tasks, 100):
        document = plan(work.pool, children=min(100, tasks))
        planned = connection.execute(
            PLAN, {"epoch": work.epoch, "plan": Jsonb(document)}
        ).fetchall()
        ids = [row[0] for row in planned]
        connection.execute(
            "SELECT FROM atm.submit_tasks(epoch => %s, task_ids => %s)", [work.epoch, ids]
        )
        vdsms = [uuid4() for _ in ids]
        connection.execute(
            "SELECT b.state FROM unnest(%s::uuid[], %s::uuid[]) x (task, vdsm),"
            " atm.bind_task(epoch => %s, task_id => x.task, vdsm_task_id => x.vdsm) b",
            [ids, vdsms, work.epoch],
        )
        listing.update({str(vdsm): RUNNING for vdsm in vdsms})
    connection.execute("ANALYZE")
    return listing


def _report(connection: Connection, work: Lifecycle, listing: dict[str, dict[str, Any]]) -> float:
    started = connection.execute("SELECT clock_timestamp()").fetchone()
    arguments = {
        "token": work.tokens[work.pool],
        "pool": work.pool,
        "started": started[0] if started else None,
        "spm": Jsonb({"host": "host1", "spm_id": 1, "lver": 1}),
        "statuses": json.dumps(listing),
    }
    return timed(connection, REPORT, arguments)


def _task_writes(connection: Connection, sql: Statements) -> int:
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(sql["task_writes"]).fetchone()
    return int(row[0]) if row else 0


def large_plan(dsn: str, work: Lifecycle, sql: Statements, tasks: int, rounds: int) -> Any:
    """A plan with many tasks, and the insert of the same rows from the same JSON.

    Args:
        dsn: the database.
        work: whose pool is used.
        sql: statements of the floor.
        tasks: of one root, without children.
        rounds: of each.
    """
    ours: list[float] = []
    bare: list[float] = []
    with psycopg.connect(dsn) as connection:
        for _ in range(rounds):
            root = uuid4()
            children: list[dict[str, Any]] = plan(work.pool, children=tasks)["children"]
            document = {
                "command_id": str(root),
                "action_type": "RemoveVm",
                "tasks": [child["tasks"][0] for child in children],
            }
            insert = "WITH x AS (VALUES (1)) " + sql["bare_plan"] + " RETURNING task_id"
            bare.append(timed(connection, insert, {"root": root, "plan": Jsonb(document)}))
            # Nothing stays: the next probe wants an empty pool.
            connection.rollback()
            ours.append(timed(connection, PLAN, {"epoch": work.epoch, "plan": Jsonb(document)}))
            connection.rollback()
    return {
        "tasks": tasks,
        "plan_ms": _ms(ours),
        "insert_ms": _ms(bare),
        "ratio_to_insert": _ratio(ours, bare),
    }


def lookup(dsn: str, work: Lifecycle, sql: Statements, live: list[int], rounds: int) -> Any:
    """`atm.entity_tasks` beside an index probe of a bare table with as many entities.

    The live tasks are those of commands as in the workload: 4 tasks and 8 entities each.

    Args:
        dsn: the database.
        work: whose pool is filled.
        sql: statements of the floor.
        live: numbers of live tasks, ascending.
        rounds: lookups of each.
    """
    answers: dict[str, Any] = {}
    entities: list[UUID] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for wanted in live:
            entities += fill(connection, work, sql, wanted - len(entities))
            answers[str(wanted)] = lookup_once(connection, sql, entities, rounds)
    return answers


def fill(connection: Connection, work: Lifecycle, sql: Statements, tasks: int) -> list[UUID]:
    """Plan commands with so many tasks, and give the bare table as many entities.

    Args:
        connection: in autocommit mode.
        work: whose pool is filled.
        sql: statements of the floor.
        tasks: in all; 4 in each command.

    Returns:
        One disk of each task.
    """
    entities: list[UUID] = []
    while len(entities) < tasks:
        missing = tasks - len(entities)
        plans = [plan(work.pool) for _ in range(min(250, -(-missing // 4)))]
        arguments = {"epoch": work.epoch, "plans": [Jsonb(one) for one in plans]}
        connection.execute(sql["plan_many"], arguments, prepare=True)
        added = [UUID(child["entities"][0]["id"]) for one in plans for child in one["children"]]
        connection.execute(sql["fill_entities"], {"entities": added}, prepare=True)
        entities += added
    connection.execute("VACUUM ANALYZE")
    return entities


def lookup_once(
    connection: Connection, sql: Statements, entities: list[UUID], rounds: int
) -> dict[str, float]:
    """Both lookups on one connection, prepared and warm.

    Args:
        connection: any.
        sql: statements of the floor.
        entities: those that can be looked up.
        rounds: of each.
    """
    _warmed(connection, sql["bare_probe"], {"entity": entities[0]})
    _warmed(connection, LOOKUP, [entities[0]])
    ours: list[float] = []
    bare: list[float] = []
    # In blocks: on a busy machine the scheduler makes a short call after a longer one wait.
    for block in range(0, rounds, BLOCK):
        chosen = [entities[n * 7919 % len(entities)] for n in range(block, block + BLOCK)]
        bare += [timed(connection, sql["bare_probe"], {"entity": one}) for one in chosen]
        ours += [timed(connection, LOOKUP, [one]) for one in chosen]
    return {
        "lookup_ms": _ms(ours),
        "index_probe_ms": _ms(bare),
        "ratio_to_index_probe": _ratio(ours, bare),
    }
