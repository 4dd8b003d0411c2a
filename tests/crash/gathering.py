"""Gathers the evidence of a run: histories, database, simulators."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pyatm.simulator.execution_log import ExecutionEvent, read_events
from tests.crash.connection import Patient
from tests.crash.evidence import (
    Access,
    Claim,
    Compensable,
    Effect,
    Ended,
    EndedTask,
    EntityKey,
    Evidence,
    Left,
    Planned,
    PlannedTask,
    Refusal,
    StaleAttempt,
    Start,
    Write,
)
from tests.crash.recording import read_lines

Line = dict[str, Any]


async def gather(
    patient: Patient, histories: Path, storage: Sequence[Path], left: Left
) -> Evidence:
    """All that is known about a run.

    Args:
        histories: the directory of the recorded lines.
        storage: the simulators' storage directories, with their logs.
        left: what remained at the end.
    """
    lines: dict[str, list[Line]] = {}
    for line in read_lines(histories):
        lines.setdefault(line["what"], []).append(line)
    sent: dict[str, float] = {}
    for line in lines.get("submitting", []):
        sent[line["task_id"]] = min(line["at"], sent.get(line["task_id"], line["at"]))
    return Evidence(
        planned={each.root: each for each in await _planned(patient)},
        ended={each.root: each for each in await _ended(patient)},
        effects=await _effects(patient),
        starts=[Start(x["engine"], x["epoch"], x["at"]) for x in lines.get("started", [])],
        writes=[
            Write(x["operation"], x["engine"], x["epoch"], x["began"])
            for x in lines.get("write", [])
        ],
        stale=[StaleAttempt(x["operation"], x["answer"]) for x in lines.get("stale", [])],
        claims=[
            Claim(x["root"], x["token"], x["outcome"], tuple(x["tasks"]), x["epoch"])
            for x in lines.get("claimed", [])
        ],
        refusals=[
            Refusal(x["began"], strongest(x["wanted"]), tuple(x["holders"]))
            for x in lines.get("busy", [])
        ],
        compensable=[
            Compensable(_key(x["entity"]), x["began"], x["at"])
            for x in lines.get("compensable", [])
        ],
        sent=sent,
        freed={x["root"]: x["at"] for x in lines.get("finished", []) if x["state"] == "ended"},
        executed=executed(storage),
        left=left,
    )


def executed(storage: Sequence[Path]) -> list[ExecutionEvent]:
    """The logs of all storage directories, by time."""
    return sorted(
        (event for directory in storage for event in read_events(directory)),
        key=lambda event: event.time,
    )


def strongest(entities: Sequence[Line]) -> dict[EntityKey, Access]:
    """The strongest access per entity, of entities as a plan has them."""
    found: dict[EntityKey, Access] = {}
    for entity in entities:
        key = (entity["type"], entity["id"])
        if found.get(key) != "exclusive":
            found[key] = cast("Access", entity["access"])
    return found


def tasks_of(document: Line, above: frozenset[EntityKey] = frozenset()) -> Iterator[PlannedTask]:
    """The tasks of a plan with all entities that they are associated with."""
    own = above | {(e["type"], e["id"]) for e in document["entities"]}
    for task in document["tasks"]:
        entities = own | {(e["type"], e["id"]) for e in task["entities"]}
        yield PlannedTask(task["task_id"], frozenset(entities))
    for child in document["children"]:
        yield from tasks_of(child, own)


def _entities_of(document: Line) -> Iterator[Line]:
    yield from document["entities"]
    for task in document["tasks"]:
        yield from task["entities"]
    for child in document["children"]:
        yield from _entities_of(child)


def _key(pair: Sequence[str]) -> EntityKey:
    return pair[0], pair[1]


async def _planned(patient: Patient) -> list[Planned]:
    rows = await patient.rows(
        "SELECT root_command_id::text AS root, engine_name, epoch, document,"
        " extract(epoch FROM held_from)::float8 AS held_from FROM chaos.planned"
    )
    return [
        Planned(
            row["root"],
            row["engine_name"],
            row["epoch"],
            row["held_from"],
            tuple(tasks_of(row["document"])),
            strongest(list(_entities_of(row["document"]))),
        )
        for row in rows
    ]


async def _effects(patient: Patient) -> list[Effect]:
    rows = await patient.rows(
        "SELECT root_command_id::text AS root, token, outcome, compensated,"
        " extract(epoch FROM at)::float8 AS at FROM chaos.effect ORDER BY effect_no"
    )
    return [
        Effect(
            row["root"],
            row["token"],
            row["outcome"],
            row["at"],
            frozenset(_key(pair) for pair in row["compensated"]),
        )
        for row in rows
    ]


async def _ended(patient: Patient) -> list[Ended]:
    rows = await patient.rows(
        "SELECT command_id::text AS root, outcome, aborted, tasks,"
        " extract(epoch FROM archived_at)::float8 AS archived_at FROM atm.history"
    )
    return [
        Ended(
            row["root"],
            row["outcome"],
            row["aborted"],
            row["archived_at"],
            tuple(_ended_task(task) for task in row["tasks"] or ()),
        )
        for row in rows
    ]


def _ended_task(task: Line) -> EndedTask:
    return EndedTask(
        task["task_id"],
        task["outcome"],
        task["vdsm_task_id"],
        _seconds(task["bound_at"]),
        _seconds(task["cleared_at"]),
    )


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
