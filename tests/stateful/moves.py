"""A move of a run: the call of the database, beside what the oracle expects of it."""

from __future__ import annotations

import copy
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from .facts import Pool, RefusedError
from .oracle import Oracle
from .truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from .database import Database, Way
    from .facts import Entity, Root, Row, Settings, Task
    from .listings import Poll

ENGINES = ("engine 1", "engine 2")
POLLERS = ("poller 1", "poller 2")
POOLS = ("00000000-0000-4000-8001-000000000001", "00000000-0000-4000-8001-000000000002")
ENTITIES: list[Entity] = [
    ("VM", "00000000-0000-4000-8002-000000000001"),
    ("Disk", "00000000-0000-4000-8002-000000000002"),
    ("Disk", "00000000-0000-4000-8002-000000000003"),
]
REASON = "because"
FAR, SHORT = "1 hour", "1 microsecond"


class Moves:
    """The truth, the oracle and the database, which each move takes along."""

    def __init__(self, database: Database, settings: Settings, luck: int) -> None:
        self.db = database
        self.truth = Truth(lver=dict.fromkeys(POOLS, 1), incomplete=dict.fromkeys(POOLS, 0))
        self.oracle = Oracle(settings, {pool: Pool() for pool in POOLS})
        self.luck = luck
        self.epochs: list[tuple[str, int]] = []
        self.tokens: list[int] = [1]
        self.claims: list[int] = [1]
        self.polls: list[Poll] = []
        self.finished: set[str] = set()
        self.left: list[Root] = []
        self._ids = 0

    def owner(self, query: str, *args: Any) -> None:
        self.db.owner.execute(query.encode(), args)

    def set_pool(self, pool: str) -> None:
        self.owner("select atm.set_pool(%s, 'pool', %s)", pool, Jsonb([{"address": "h"}]))

    def _set(self, name: str, value: object) -> None:
        self.owner("select atm.set_setting(%s, %s, %s)", name, str(value), REASON)

    def fresh_id(self) -> str:
        self._ids += 1
        return str(uuid.UUID(int=self._ids, version=4))

    def toss(self) -> bool:
        """The next bit of this run's luck."""
        self.luck = self.luck >> 1 | (self.luck & 1) << 15
        return bool(self.luck & 1)

    def move(
        self,
        way: Way,
        expected: Callable[[], Any],
        who: str,
        query: str,
        *args: Any,
        tell: Callable[[list[Row]], None] | None = None,
    ) -> list[Row] | None:
        """Calls the database, then the oracle; None when refused or taken back.

        `tell` brings the ids that only the database makes to the oracle, before it moves.
        """
        before = copy.deepcopy(self.oracle) if not way.keep else None
        code, rows = None, None
        try:
            rows = self.db.call(who, way, query, *args)
            if tell:
                tell(rows)
        except psycopg.Error as error:
            code = error.sqlstate or repr(error)
        refused = None
        try:
            expected()
        except RefusedError as refusal:
            refused = refusal.code
        assert code == refused, f"{query} {args}: {code}, and not {refused}"
        if before is not None:
            self.oracle = before
            return None
        return rows

    def set_time(self, *, settle: bool, absence: bool) -> None:
        """Lets the times of doubt and absence be over for everybody, or far away."""
        self.oracle.settings.settle_over, self.oracle.settings.absence_over = settle, absence
        self._set("in_doubt_settle", "0" if settle else "1 day")
        self._set("absence_time", "0" if absence else "1 day")
        # What was listed or announced before belongs to the time before.
        self.polls.clear()
        if absence:
            for pool in POOLS:
                self.truth.load(pool)
        self.expire()

    def expire(self) -> None:
        """The assumption behind the settle time: what is in doubt now comes at once or never."""
        if not self.oracle.settings.settle_over:
            return
        doubtful = {task.id for task in self.oracle.tasks() if task.doubt}
        for create in self.truth.creates:
            if create.task in doubtful and create.may_come:
                if create.state == "sent" and self.toss():
                    self.truth.born(create)
                else:
                    create.state = "never"

    def claimed(self, engine: str) -> list[int]:
        """The tokens with which an engine may finish an endAction."""
        roots = [root for root in self.oracle.roots.values() if root.engine == engine]
        return [root.token for root in roots if root.token is not None]

    def tasks_of(self, state: str) -> list[Task]:
        return [task for task in self.oracle.tasks() if task.state == state]
