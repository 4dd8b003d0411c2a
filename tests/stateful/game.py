"""One run: the truth, the oracle and the database, moved together and compared."""

from __future__ import annotations

import copy
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from . import listings
from .database import Database, Way
from .facts import Pool, RefusedError, Root, Settings, Task
from .listings import Answer, Poll
from .oracle import Oracle
from .truth import Create, Job, Truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from .facts import Entity, Row

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


@dataclass(slots=True)
class Work:
    """A to-do list or the answers to one, in the hands of a poller."""

    pool: str
    poller: str
    token: int
    answers: list[Answer]


class Game:
    """What the rules of the machine call; each move is checked against the oracle."""

    def __init__(self, database: Database, settings: Settings, luck: int) -> None:
        self.db = database
        self.truth = Truth(lver=dict.fromkeys(POOLS, 1), incomplete=dict.fromkeys(POOLS, 0))
        self.oracle = Oracle(settings, {pool: Pool() for pool in POOLS})
        self.luck = luck
        self.epochs: list[tuple[str, int]] = []
        self.tokens: list[int] = [1]
        self.claims: list[int] = [1]
        self.polls: list[Poll] = []
        self.todo: list[Work] = []
        self.answers: list[Work] = []
        self.finished: set[str] = set()
        self.left: list[Root] = []
        self._ids = 0
        database.empty()
        for name, value in (
            ("absence_polls", settings.absence_polls),
            ("end_action_attempts", settings.attempts),
            ("end_action_backoff", "0"),
            ("orphan_policy", settings.orphans),
            ("notify", "off"),
        ):
            self._set(name, value)
        self.set_time(settle=settings.settle_over, absence=settings.absence_over)
        for pool in POOLS:
            self.set_pool(pool)
        for engine in ENGINES:
            self.start_engine(engine, killed=True, way=Way())
        for poller in POLLERS:
            self.acquire(poller, 1, short=False, way=Way())

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

    # Time.

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

    # The engine.

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

    # The poller.

    def acquire(self, poller: str, most: int, *, short: bool, way: Way) -> None:
        given: dict[str, int] = {}

        def expected() -> None:
            held = listings.acquire(self.oracle, poller, most)
            assert held == set(given), f"{poller} holds {set(given)}, and not {held}"
            for name, pool in self.oracle.pools.items():
                if name in held:
                    assert (pool.token == given[name]) == (pool.poller == poller)
                    pool.poller, pool.token, pool.short_lease = poller, given[name], short
                elif pool.poller == poller:
                    pool.poller = pool.token = None
                    pool.short_lease = False

        self.move(
            way,
            expected,
            "poller 1",
            "select storage_pool_id::text, token from atm.acquire_pools(%s, %s, %s::interval)",
            poller,
            most,
            SHORT if short else FAR,
            tell=lambda rows: given.update({r["storage_pool_id"]: r["token"] for r in rows}),
        )
        self.tokens += [token for token in given.values() if token not in self.tokens]

    def begin_poll(self, pool: str, token: int) -> Poll:
        poll = Poll(pool, "", token, self.oracle.tick(), self.db.clock())
        self.polls.append(poll)
        return poll

    def list_tasks(self, poll: Poll, *, failed: bool, garbled: bool) -> None:
        settings = self.oracle.settings
        if settings.absence_over and self.truth.incomplete[poll.pool] >= settings.absence_polls - 1:
            self.truth.load(poll.pool)
        poll.listed, poll.lver = True, self.truth.lver[poll.pool]
        poll.listing = None if failed else self.truth.listing(poll.pool)
        if garbled and poll.listing:
            poll.unreadable = frozenset([max(poll.listing)])

    def report(self, poll: Poll, way: Way) -> None:
        statuses = poll.listing and {
            vdsm: {
                "taskState": "dreaming" if vdsm in poll.unreadable else said[0],
                "taskResult": said[1],
                "code": said[2],
                "message": said[3],
            }
            for vdsm, said in poll.listing.items()
        }
        wanted: set[listings.Chore] = set()
        rows = self.move(
            way,
            lambda: wanted.update(listings.report(self.oracle, poll)),
            "poller 1",
            "select task_id::text, vdsm_task_id::text, action"
            " from atm.report_poll(%s, %s, %s, %s, %s)",
            poll.token,
            poll.pool,
            poll.begun_at,
            Jsonb({"host": "h", "spm_id": 1, "lver": poll.lver}),
            None if statuses is None else Jsonb(statuses),
        )
        if rows is None:
            return
        found = [(row["task_id"], row["vdsm_task_id"], row["action"]) for row in rows]
        assert sorted(found, key=str) == sorted(wanted, key=str), f"to do: {found}, not {wanted}"
        if found:
            todo = [Answer(vdsm, action, False, 0) for _, vdsm, action in found]
            self.todo.append(Work(poll.pool, poll.poller, poll.token, todo))

    def do_chores(self, work: Work) -> None:
        """VDSM does what a to-do list says, however old the list is."""
        self.todo.remove(work)
        for answer in work.answers:
            job = self.truth.jobs.get(answer.vdsm)
            if job and not job.hidden:
                self.check_chore(answer, job)
            self.truth.act(answer)
        self.answers.append(work)

    def check_chore(self, answer: Answer, job: Job) -> None:
        """Nothing is taken away that somebody waits for."""
        task = next((t for t in self.oracle.tasks() if t.vdsm == job.id), None)
        if task is not None:
            state = task.root.state
            if answer.action == "clear":
                assert state == "ended", f"cleared, and its command is {state}"
            elif answer.action == "revert":
                assert state in ("reverting", "ended")
            else:
                assert task.root.stop
        elif job.origin and job.said[0] != "never":
            waiting = next((t for t in self.oracle.tasks() if t.id == job.origin.task), None)
            assert not (waiting and waiting.may_bind), f"{answer.action} of a task to be bound"

    def report_actions(self, work: Work, way: Way) -> None:
        actions = [
            {"vdsm_task_id": a.vdsm, "action": a.action, "ok": a.ok, "code": a.code}
            for a in work.answers
        ]
        self.answers.remove(work)
        self.move(
            way,
            lambda: listings.report_actions(self.oracle, work.pool, work.token, work.answers),
            "poller 2",
            "select atm.report_actions(%s, %s, %s)",
            work.token,
            work.pool,
            Jsonb(actions),
        )

    def poll_now(self, pool: str, way: Way) -> None:
        """A whole poll with its chores, by the poller that holds the pool."""
        token = self.oracle.pools[pool].token
        if token is None:
            return
        poll = self.begin_poll(pool, token)
        self.polls.remove(poll)
        self.list_tasks(poll, failed=False, garbled=False)
        self.report(poll, way)
        for work in [w for w in self.todo if w.pool == pool and w.token == token]:
            self.do_chores(work)
            self.report_actions(work, way)

    # endAction.

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

    # Engine and operator, on one command or task.

    def on_command(self, what: str, epoch: int, command: str, way: Way, *, flag: bool) -> None:
        calls: dict[str, tuple[str, Callable[[], None], str, list[Any]]] = {
            "seal": (
                "engine 1",
                lambda: self.oracle.seal(epoch, command),
                "select atm.seal_command(%s, %s)",
                [epoch, command],
            ),
            "abort": (
                "engine 2",
                lambda: self.oracle.abort(epoch, command, flag),
                "select atm.abort_command(%s, %s, %s, %s)",
                [epoch, command, REASON, flag],
            ),
            "cancel": (
                "operator",
                lambda: self.oracle.cancel(command),
                "select * from atm.cancel_command(%s, %s, false)",
                [command, REASON],
            ),
            "retry": (
                "operator",
                lambda: self.oracle.retry_end_action(command),
                "select atm.retry_end_action(%s, %s, false)",
                [command, REASON],
            ),
        }
        who, expected, query, args = calls[what]
        self.move(way, expected, who, query, *args)

    def resolve_task(self, task: str, outcome: str, way: Way) -> None:
        self.move(
            way,
            lambda: self.oracle.resolve_task(task, outcome),
            "operator",
            "select atm.resolve_task(%s, %s, %s, false)",
            task,
            outcome,
            REASON,
        )

    def resolve_orphan(self, vdsm: str, way: Way) -> None:
        self.move(
            way,
            lambda: self.oracle.resolve_orphan(vdsm),
            "operator",
            "select atm.resolve_orphan(%s, %s, false)",
            vdsm,
            REASON,
        )

    def remove_pool(self, pool: str, way: Way) -> None:
        """Removes a pool; when that worked it is set anew, and may be planned in again."""
        done = self.move(
            way,
            lambda: self.oracle.remove_pool(pool),
            "operator",
            "select atm.remove_pool(%s, %s, false)",
            pool,
            REASON,
        )
        if done is not None:
            self.set_pool(pool)

    def drain_pool(self, pool: str, way: Way, *, drained: bool) -> None:
        self.move(
            way,
            lambda: self.oracle.drain_pool(pool, drained),
            "operator",
            "select atm.drain_pool(%s, %s, %s, false)",
            pool,
            REASON,
            drained,
        )

    def another_tool(self, pool: str) -> None:
        """Somebody else makes VDSM work."""
        stray = self.truth.fresh_id()
        self.truth.jobs[stray] = Job(stray, pool)

    def purge_history(self, way: Way) -> None:
        """Drops only months that are over: nothing that the runs have made."""
        query = "select * from atm.purge_history('test', 0, false)"
        self.move(way, lambda: None, "operator", query)

    def claimed(self, engine: str) -> list[int]:
        """The tokens with which an engine may finish an endAction."""
        roots = [root for root in self.oracle.roots.values() if root.engine == engine]
        return [root.token for root in roots if root.token is not None]

    def tasks_of(self, state: str) -> list[Task]:
        return [task for task in self.oracle.tasks() if task.state == state]
