"""A small world for tests of the SQL face: engine, pool, poller, and a VDSM that is a dict."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]


def status(
    state: str = "running", result: str = "", code: int = 0, message: str = "running job 1 of 1"
) -> Row:
    return {"taskState": state, "taskResult": result, "code": code, "message": message}


FINISHED = status("finished", "success", 0, "1 jobs completed successfully")
ROLLED_BACK = status(
    "finished", "cleanSuccess", 261, "value=low level Image copy failed abortedcode=261"
)


@dataclass
class World:
    """Calls the functions of schema atm over one autocommit connection."""

    db: psycopg.Connection[Any]
    pool_id: uuid.UUID = field(default_factory=uuid.uuid4)
    engine_name: str = "engine"
    epoch: int = 0
    token: int = 0
    lver: int = 1
    vdsm: dict[str, Row] = field(default_factory=dict)

    def start(self) -> World:
        self.set(absence_polls=1, absence_time="0", in_doubt_settle="0", end_action_backoff="0")
        self.one("select atm.set_pool(%s, 'pool', %s)", self.pool_id, Jsonb([{"address": "h1"}]))
        self.epoch = self.start_engine()
        self.acquire()
        return self

    def rows(self, query: str, *args: Any, db: psycopg.Connection[Any] | None = None) -> list[Row]:
        with (db or self.db).cursor(row_factory=dict_row) as cursor:
            cursor.execute(query, args)  # pyright: ignore[reportArgumentType]
            return cursor.fetchall() if cursor.description else []

    def one(self, query: str, *args: Any, db: psycopg.Connection[Any] | None = None) -> Any:
        (row,) = self.rows(query, *args, db=db)
        return next(iter(row.values()))

    def set(self, **settings: Any) -> None:
        for name, value in settings.items():
            self.one("select atm.set_setting(%s, %s, 'test')", name, str(value))

    def start_engine(self) -> int:
        return int(self.one("select atm.start_engine(%s)", self.engine_name))

    def acquire(self, poller: str = "poller") -> None:
        rows = self.rows("select * from atm.acquire_pools(%s, 1000, '1 hour')", poller)
        self.token = next(row["token"] for row in rows if row["storage_pool_id"] == self.pool_id)

    def document(
        self,
        tasks: int = 4,
        *,
        submit: bool = False,
        entities: list[Row] | None = None,
        **root: Any,
    ) -> Row:
        """A RemoveVm with a child command and a task per disk."""
        return {
            "command_id": str(uuid.uuid4()),
            "action_type": "RemoveVm",
            "parameters": {"vm": "v1"},
            "entities": entities if entities is not None else [],
            "children": [
                {
                    "command_id": str(uuid.uuid4()),
                    "action_type": "RemoveImage",
                    "entities": [{"type": "Disk", "id": str(uuid.uuid4()), "access": "exclusive"}],
                    "tasks": [
                        {
                            "task_id": str(uuid.uuid4()),
                            "task_type": "deleteImage",
                            "storage_pool_id": str(self.pool_id),
                            "parameters": {"disk": n},
                            "submit": submit,
                        }
                    ],
                }
                for n in range(tasks)
            ],
            **root,
        }

    def plan(
        self, document: Row, *, epoch: int | None = None, db: psycopg.Connection[Any] | None = None
    ) -> list[Row]:
        return self.rows(
            "select * from atm.plan_command(%s, %s)",
            self.epoch if epoch is None else epoch,
            Jsonb(document),
            db=db,
        )

    def bind(
        self, task_id: Any, vdsm_id: Any = None, *following: Any, epoch: int | None = None
    ) -> str:
        """Binds a task to a VDSM task that runs; returns VDSM's id."""
        vdsm_id = str(vdsm_id or uuid.uuid4())
        self.rows(
            "select * from atm.bind_task(%s, %s, %s, %s::uuid[])",
            self.epoch if epoch is None else epoch,
            task_id,
            vdsm_id,
            [str(f) for f in following],
        )
        self.vdsm.setdefault(vdsm_id, status())
        return vdsm_id

    def planned_and_bound(
        self, tasks: int = 4, **root: Any
    ) -> tuple[uuid.UUID, list[Row], list[str]]:
        rows = self.plan(self.document(tasks, submit=True, **root))
        return rows[0]["root_command_id"], rows, [self.bind(row["task_id"]) for row in rows]

    def poll(
        self,
        statuses: dict[str, Row] | str | None = "vdsm",
        *,
        started: Any = None,
        token: int | None = None,
    ) -> list[Row]:
        """Reports a poll; what VDSM lists is self.vdsm unless given."""
        listed = self.vdsm if statuses == "vdsm" else statuses
        return self.rows(
            "select * from atm.report_poll(%s, %s, %s, %s, %s)",
            self.token if token is None else token,
            self.pool_id,
            started or self.now(),
            Jsonb({"host": "h1", "spm_id": 1, "lver": self.lver}),
            None if listed is None else Jsonb(listed),
        )

    def now(self) -> Any:
        return self.one("select clock_timestamp()")

    def act(self, chores: list[Row], *, ok: bool = True, code: int = 0) -> int:
        """Does the to-do list at VDSM and reports it."""
        for chore in chores:
            if ok and chore["action"] == "clear":
                self.vdsm.pop(str(chore["vdsm_task_id"]), None)
            elif ok and chore["action"] == "revert":
                self.vdsm[str(chore["vdsm_task_id"])] = status(
                    "finished", "cleanSuccess", 0, "1 jobs completed successfully"
                )
        return int(
            self.one(
                "select atm.report_actions(%s, %s, %s)",
                self.token,
                self.pool_id,
                Jsonb(
                    [
                        {
                            "vdsm_task_id": str(c["vdsm_task_id"]),
                            "action": c["action"],
                            "ok": ok,
                            "code": code,
                        }
                        for c in chores
                    ]
                ),
            )
        )

    def claim(self, epoch: int | None = None, lease: str = "1 hour") -> list[Row]:
        return self.rows(
            "select * from atm.claim_end_actions(%s, 100, %s::interval)",
            self.epoch if epoch is None else epoch,
            lease,
        )

    def finish(self, token: int, result: str = "done", **named: Any) -> str:
        names = "".join(f", {name} => %s" for name in named)
        return str(
            self.one(f"select atm.finish_end_action(%s, %s{names})", token, result, *named.values())
        )

    def settle(self, polls: int = 6) -> None:
        """Polls and does chores until nothing is left to do."""
        for _ in range(polls):
            self.act(self.poll())

    def root(self, command_id: Any) -> Row | None:
        rows = self.rows("select * from atm.commands where command_id = %s", command_id)
        return rows[0] if rows else None

    def state(self, command_id: Any) -> str | None:
        row = self.root(command_id)
        return row["state"] if row else None

    def task(self, task_id: Any) -> Row:
        (row,) = self.rows("select * from atm.tasks where task_id = %s", task_id)
        return row

    def live_rows(self) -> int:
        return int(
            self.one(
                "select (select count(*) from atm.commands) + (select count(*) from atm.tasks)"
                " + (select count(*) from atm.entities)"
            )
        )

    def history(self, command_id: Any) -> Row:
        (row,) = self.rows("select * from atm.history where command_id = %s", command_id)
        return row


def everything(world: World) -> dict[str, list[Row]]:
    """The rows of all tables."""
    tables = world.rows(
        "select c.oid::regclass::text as name from pg_class c"
        " where c.relnamespace = 'atm_internal'::regnamespace and c.relkind = 'r' order by 1"
    )
    return {t["name"]: world.rows(f"select * from {t['name']} x order by x::text") for t in tables}


def refused(call: Callable[[], object], code: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as error:
        call()
    assert error.value.sqlstate == code, error.value
    return error.value
