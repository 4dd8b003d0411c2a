"""What pollers and VDSM do: leases, polls, to-do lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from . import listings
from .listings import Answer, Poll
from .moves import FAR, SHORT, Moves

if TYPE_CHECKING:
    from .database import Database, Way
    from .facts import Settings
    from .truth import Job


@dataclass(slots=True)
class Work:
    """A to-do list or the answers to one, in the hands of a poller."""

    pool: str
    poller: str
    token: int
    answers: list[Answer]


class PollerMoves(Moves):
    """The moves of pollers."""

    def __init__(self, database: Database, settings: Settings, luck: int) -> None:
        super().__init__(database, settings, luck)
        self.todo: list[Work] = []
        self.answers: list[Work] = []

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
