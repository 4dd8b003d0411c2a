"""What engines do: start, plan, submit, bind, end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from .moves import FAR, REASON, SHORT, Moves
from .truth import Create

if TYPE_CHECKING:
    from .database import Way
    from .facts import Row


class EngineMoves(Moves):
    """The moves of engines."""

    def start_engine(self, name: str, *, killed: bool, way: Way) -> None:
        before = self.oracle.epochs.get(name)
        given: list[int] = []

        def tell(rows: list[Row]) -> None:
            given.append(rows[0]["epoch"])

        done = self.move(
            way,
            lambda: self.oracle.start_engine(name, given[0]),
            "engine 1",
            "select atm.start_engine(%s) as epoch",
            name,
            tell=tell,
        )
        if done is None:
            return
        self.epochs.append((name, given[0]))
        for create in self.truth.creates:
            if killed and create.epoch == before and create.state == "announced":
                create.state = "never"
        self.expire()

    def plan(self, epoch: int, document: Row, way: Way) -> None:
        rows = self.move(
            way,
            lambda: self.oracle.plan(epoch, document),
            "engine 1",
            "select task_id::text, state from atm.plan_command(%s, %s)",
            epoch,
            Jsonb(document),
        )
        self._announce(epoch, rows)

    def add_tasks(self, epoch: int, command: str, addition: Row, way: Way) -> None:
        rows = self.move(
            way,
            lambda: self.oracle.add_tasks(epoch, command, addition),
            "engine 1",
            "select task_id::text, state from atm.add_tasks(%s, %s, %s)",
            epoch,
            command,
            Jsonb(addition),
        )
        self._announce(epoch, rows)

    def submit(self, epoch: int, tasks: list[str], way: Way) -> None:
        expected: list[tuple[str, str]] = []
        rows = self.move(
            way,
            lambda: expected.extend(self.oracle.submit(epoch, tasks)),
            "engine 2",
            "select task_id::text, state from atm.submit_tasks(%s, %s::uuid[])",
            epoch,
            tasks,
        )
        if rows is not None:
            assert [(row["task_id"], row["state"]) for row in rows] == expected
        self._announce(epoch, rows)

    def _announce(self, epoch: int, rows: list[Row] | None) -> None:
        """The engine will send what was answered as submitting, once."""
        for row in rows or []:
            if row["state"] == "submitting" and not self.truth.create_of(row["task_id"]):
                pool = self.oracle.task(row["task_id"]).pool
                self.truth.creates.append(Create(row["task_id"], pool, epoch))

    def bind(self, epoch: int, task: str, vdsm: str, following: list[str], way: Way) -> None:
        rows = self.move(
            way,
            lambda: self.oracle.bind(epoch, task, vdsm, following),
            "engine 2",
            "select task_id::text, state from atm.bind_task(%s, %s, %s, %s::uuid[])",
            epoch,
            task,
            vdsm,
            following,
        )
        self._announce(epoch, [row for row in rows or [] if row["task_id"] in following])

    def fail(self, epoch: int, task: str, way: Way) -> None:
        self.move(
            way,
            lambda: self.oracle.fail(epoch, task, REASON),
            "engine 1",
            "select atm.fail_task(%s, %s, %s)",
            epoch,
            task,
            REASON,
        )

    def doubt(self, epoch: int, task: str, way: Way) -> None:
        done = self.move(
            way,
            lambda: self.oracle.doubt(epoch, task),
            "engine 1",
            "select atm.doubt_task(%s, %s, %s)",
            epoch,
            task,
            REASON,
        )
        create = self.truth.create_of(task)
        if done is not None and create and create.state == "announced":
            create.state = "never"
        self.expire()

    def advance(self, create: Create, way: Way) -> None:
        """The process that has announced a task does its next step."""
        if create.state == "announced":
            create.state = "sent"
        elif create.state == "sent":
            self.truth.born(create)
        elif create.state == "born" and create.vdsm:
            self.bind(create.epoch, create.task, create.vdsm, [], way)
        elif create.state == "refused":
            self.fail(create.epoch, create.task, way)
        else:
            self.doubt(create.epoch, create.task, way)

    def claim(self, epoch: int, *, short: bool, way: Way) -> None:
        given: dict[str, Row] = {}

        def tell(rows: list[Row]) -> None:
            given.update({row["root_command_id"]: row for row in rows})

        def expected() -> None:
            tokens = {root: row["token"] for root, row in given.items()}
            attempts = self.oracle.claim(epoch, tokens, short)
            found = {root: row["attempt"] for root, row in given.items()}
            assert found == attempts, f"claimed {found}, and not {attempts}"
            assert not set(tokens.values()) & set(self.claims), "a token was given twice"

        self.move(
            way,
            expected,
            "engine 1",
            "select root_command_id::text, token, attempt"
            " from atm.claim_end_actions(%s, 1000, %s::interval)",
            epoch,
            SHORT if short else FAR,
            tell=tell,
        )
        self.claims += [row["token"] for row in given.values()]

    def finish(self, token: int, result: str, *, later: bool, disposition: str, way: Way) -> None:
        """Finishes an endAction together with its effect in the database."""
        root = next((r for r in self.oracle.roots.values() if r.token == token), None)
        effect = "with x as (insert into effect select %s::uuid where %s = 'done')" if root else ""
        ours = [root.id, result] if root else []
        state: list[str] = []
        rows = self.move(
            way,
            lambda: state.append(self.oracle.finish(token, result, later, disposition)),
            "engine 2",
            f"{effect} select atm.finish_end_action(%s, %s, %s::interval, %s) as state",
            *ours,
            token,
            result,
            "1 day" if later else "0",
            disposition,
        )
        if rows is not None:
            assert rows[0]["state"] == state[0]
            if root and result == "done":
                self.finished.add(root.id)

    def extend(self, token: int, *, short: bool, way: Way) -> None:
        self.move(
            way,
            lambda: self.oracle.extend(token, short),
            "engine 2",
            "select atm.extend_end_action(%s, %s::interval)",
            token,
            SHORT if short else FAR,
        )
