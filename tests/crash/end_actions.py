"""The endActions of the load: an effect in the finishing transaction."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from pyatm.engine import EndAction, Engine, Finish
from pyatm.engine.client import Connection
from tests.crash.evidence import EntityKey
from tests.crash.points import Points
from tests.crash.recording import Recorder

COMPENSATION_RETRY = timedelta(seconds=0.5)
SLOW = 1.5
"""Seconds; longer than a third of the lease, so that it is extended."""


class FailingError(Exception):
    """The first attempt of an endAction that was planned to fail."""


class LoadHandler:
    """See `pyatm.engine.runner.Handler`.

    Args:
        recorder: told what was offered.
    """

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self._engine, self._recorder = engine, recorder
        self._given_up: set[UUID] = set()

    async def prepare(self, end_action: EndAction) -> None:
        if end_action.parameters.get("slow_end"):
            await asyncio.sleep(SLOW)

    async def apply(self, connection: Connection, end_action: EndAction, prepared: Any) -> Finish:
        del prepared
        first = end_action.attempt == 1
        root = end_action.root_command_id
        # An operator's retry counts the attempts from the start.
        if end_action.parameters.get("gives_up") and first and root not in self._given_up:
            self._given_up.add(root)
            return Finish("give_up", message="as planned")
        entities = [] if end_action.succeeded else await self._touched(connection, end_action)
        for kind, entity_id in entities:
            if not await self._engine.can_compensate(kind, UUID(entity_id), connection=connection):
                return Finish("retry", COMPENSATION_RETRY, message=f"{kind} {entity_id} is busy")
        # SQL of the engine's own: its effect is a row.
        await connection.execute(
            "INSERT INTO chaos.effect (root_command_id, token, outcome, compensated)"
            " VALUES (%s, %s, %s, %s)",
            [
                root,
                end_action.token,
                end_action.outcome,
                Jsonb([[kind, entity_id] for kind, entity_id in entities]),
            ],
        )
        if end_action.parameters.get("failing_end") and first:
            raise FailingError("as planned, after its effect")
        revert = not end_action.succeeded and end_action.action_type == "AddVm"
        return Finish(disposition="revert" if revert else "clear")

    async def _touched(self, connection: Connection, end_action: EndAction) -> list[EntityKey]:
        """What this command holds alone, from the plan that its transaction wrote."""
        cursor = await connection.execute(
            "SELECT document FROM chaos.planned WHERE root_command_id = %s",
            [end_action.root_command_id],
        )
        row = await cursor.fetchone()
        return [] if row is None else list(_exclusive(row[0]))


def _exclusive(document: dict[str, Any]) -> Iterator[EntityKey]:
    for entity in document["entities"]:
        if entity["access"] == "exclusive":
            yield entity["type"], entity["id"]
    for child in document["children"]:
        yield from _exclusive(child)


class Watcher:
    """Notes what the runner of the endActions does.

    Attributes:
        open: commands of this process that are planned and not over, about.
    """

    def __init__(self, recorder: Recorder, points: Points) -> None:
        self.open = 0
        self._recorder, self._points = recorder, points

    async def __call__(self, event: str, end_action: EndAction, detail: str) -> None:
        root = str(end_action.root_command_id)
        if event == "claimed":
            self._recorder.write(
                "claimed",
                root=root,
                epoch=self._points.epoch,
                token=end_action.token,
                attempt=end_action.attempt,
                outcome=end_action.outcome,
                tasks=[task.outcome for task in end_action.tasks],
            )
        elif event == "finished":
            self.open = max(0, self.open - 1) if detail in ("ended", "reverting") else self.open
            self._recorder.write("finished", root=root, token=end_action.token, state=detail)
        else:
            self._recorder.write("retried", root=root, token=end_action.token, reason=detail)
        await self._points.reach(event)
