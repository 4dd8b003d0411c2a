"""The poller's half of the oracle: leases, listings, answers to the to-do list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .facts import ANNOUNCED, RefusedError, Root, Said, Task, Unknown, Watch

if TYPE_CHECKING:
    from .oracle import Oracle

Chore = tuple[str | None, str, str]


@dataclass(slots=True)
class Poll:
    """A poll on its way: begun, perhaps listed, not reported yet."""

    pool: str
    poller: str
    token: int
    begun: int
    begun_at: object
    lver: int = 0
    listing: dict[str, Said] | None = None
    unreadable: frozenset[str] = frozenset()
    listed: bool = False


@dataclass(slots=True)
class Answer:
    """What VDSM said to one chore."""

    vdsm: str
    action: str
    ok: bool
    code: int


def acquire(oracle: Oracle, poller: str, most: int) -> set[str]:
    """The pools that a poller holds afterwards; their new tokens are not known here."""
    numbered = list(enumerate(oracle.pools.items()))
    own = [(pool.reported, -n, name) for n, (name, pool) in numbered if pool.poller == poller]
    free = [
        (pool.reported, n, name)
        for n, (name, pool) in numbered
        if pool.poller is None or (pool.poller != poller and pool.short_lease)
    ]
    return {name for _, _, name in (sorted(own) + sorted(free))[:most]}


def leased(oracle: Oracle, name: str, token: int) -> None:
    if oracle.pools[name].token != token:
        raise RefusedError("AT202")


def report(oracle: Oracle, poll: Poll) -> set[Chore]:
    """Applies a listing; returns the to-do list."""
    leased(oracle, poll.pool, poll.token)
    pool = oracle.pools[poll.pool]
    pool.reported = oracle.tick()
    if poll.listing is None or poll.begun <= pool.polled:
        return set()
    pool.polled, pool.lver = poll.begun, poll.lver
    readable = {k: v for k, v in poll.listing.items() if k not in poll.unreadable}
    bound = [task for task in oracle.tasks() if task.pool == poll.pool and task.vdsm]
    ours = {task.vdsm for task in bound}
    strange = {k: v for k, v in readable.items() if k not in ours}
    changed(oracle, poll, bound, readable)
    new_unknowns(oracle, poll, strange)
    follow_unknowns(oracle, poll)
    absences(oracle, poll, bound)
    settle_doubts(oracle, poll)
    return chores(oracle, poll, strange)


def changed(oracle: Oracle, poll: Poll, bound: list[Task], readable: dict[str, Said]) -> None:
    for task in bound:
        said = readable.get(task.vdsm or "")
        if said is None:
            continue
        task.said = said
        if task.cleared is not None and task.cleared < poll.begun:
            task.cleared = None
        if task.state == "running" and said[0] == "finished":
            oracle.close(task, "succeeded" if said[1] == "success" else "failed", clear=False)
            oracle.count(task.root)


def new_unknowns(oracle: Oracle, poll: Poll, strange: dict[str, Said]) -> None:
    polls = oracle.settings.absence_polls
    everywhere = {task.vdsm for task in oracle.tasks()}
    for vdsm, said in strange.items():
        if vdsm in oracle.unknowns:
            oracle.unknowns[vdsm].said = said
        elif not (vdsm in oracle.known or vdsm in oracle.orphans_over or vdsm in everywhere):
            suspects = [
                task
                for task in oracle.tasks()
                if task.pool == poll.pool
                and (task.state in ANNOUNCED or (task.state == "done" and task.doubt))
                and (task.doubt is None or task.doubt.polls < polls)
            ]
            oracle.unknowns[vdsm] = Unknown(vdsm, poll.pool, said, suspects)


def missing(watch: Watch | None, poll: Poll) -> Watch:
    if watch is None or watch.lver != poll.lver:
        return Watch(poll.begun, poll.lver, 1)
    watch.polls += 1
    return watch


def is_absent(oracle: Oracle, watch: Watch | None) -> bool:
    settings = oracle.settings
    return watch is not None and watch.polls >= settings.absence_polls and settings.absence_over


def follow_unknowns(oracle: Oracle, poll: Poll) -> None:
    bound = {task.vdsm for task in oracle.tasks()}
    for unknown in [u for u in oracle.unknowns.values() if u.pool == poll.pool]:
        if unknown.id in bound:
            del oracle.unknowns[unknown.id]
            continue
        listed = unknown.id in (poll.listing or {})
        unknown.absence = None if listed else missing(unknown.absence, poll)
        if is_absent(oracle, unknown.absence):
            forget(oracle, unknown)


def forget(oracle: Oracle, unknown: Unknown) -> None:
    del oracle.unknowns[unknown.id]
    oracle.orphans_over[unknown.id] = oracle.tick()


def absences(oracle: Oracle, poll: Poll, bound: list[Task]) -> None:
    gone: list[Task] = []
    for task in bound:
        if task.vdsm in (poll.listing or {}) or task.cleared is not None:
            task.absence = None
        elif task.bound < poll.begun:
            task.absence = missing(task.absence, poll)
            if is_absent(oracle, task.absence):
                gone.append(task)
    for task in gone:
        if task.state == "running":
            task.state, task.outcome = "done", "lost"
        task.cleared, task.absence = oracle.tick(), None
        task.to_revert = task.stopping = False
    close_roots(oracle, [task.root for task in gone])


def close_roots(oracle: Oracle, roots: list[Root]) -> None:
    for root in dict.fromkeys(roots):
        oracle.count(root)
        oracle.archive_when_cleared(root)
        oracle.end_reverted(root)


def settle_doubts(oracle: Oracle, poll: Poll) -> None:
    settings = oracle.settings
    due: list[Task] = []
    for task in oracle.tasks():
        watch = task.doubt
        if task.pool != poll.pool or watch is None:
            continue
        if settings.settle_over and poll.begun >= watch.since:
            watch.polls = watch.polls + 1 if watch.lver == poll.lver else 1
            watch.lver = poll.lver
        if (
            watch.lver == poll.lver
            and watch.polls >= settings.absence_polls
            and settings.absence_over
            and not any(
                task in unknown.suspects and unknown.said[0] != "finished" and not unknown.resolved
                for unknown in oracle.unknowns.values()
            )
        ):
            due.append(task)
    for task in due:
        for unknown in oracle.unknowns.values():
            unknown.suspected |= task in unknown.suspects
        if task.state == "in_doubt":
            oracle.close(task, "in_doubt", clear=True)
        else:
            task.cleared, task.doubt = oracle.tick(), None
    close_roots(oracle, [task.root for task in due])


def chores(oracle: Oracle, poll: Poll, strange: dict[str, Said]) -> set[Chore]:
    listed = poll.listing or {}
    found: set[Chore] = set()
    for task in oracle.tasks():
        if task.pool != poll.pool or task.vdsm not in listed or task.cleared is not None:
            continue
        if task.root.state == "ended":
            if task.finished:
                found.add((task.id, task.vdsm, "clear"))
        elif task.root.state == "reverting":
            if task.to_revert:
                found.add((task.id, task.vdsm, "revert"))
        elif task.root.stop and not task.finished and not task.stopping:
            found.add((task.id, task.vdsm, "stop"))
    for unknown in oracle.unknowns.values():
        if (
            unknown.pool == poll.pool
            and unknown.said[0] == "finished"
            and unknown.absence is None
            and not any(task.may_bind for task in unknown.live_suspects())
            and is_followed(oracle, unknown)
        ):
            found.add((None, unknown.id, "clear"))
    for vdsm, said in strange.items():
        over = oracle.known.get(vdsm, oracle.orphans_over.get(vdsm))
        if said[0] == "finished" and over is not None and over < poll.begun:
            found.add((None, vdsm, "clear"))
    return found


def is_followed(oracle: Oracle, unknown: Unknown) -> bool:
    policy = oracle.settings.orphans
    return policy == "all" or (
        policy == "suspected" and (unknown.suspected or bool(unknown.live_suspects()))
    )


def report_actions(oracle: Oracle, pool: str, token: int, answers: list[Answer]) -> None:
    leased(oracle, pool, token)
    oracle.pools[pool].reported = oracle.tick()
    touched: list[Root] = []
    tasks = {task.vdsm: task for task in oracle.tasks() if task.pool == pool and task.vdsm}
    for answer in answers:
        task = tasks.get(answer.vdsm)
        if task is not None:
            touched.append(task.root)
            apply_answer(oracle, task, answer)
        unknown = oracle.unknowns.get(answer.vdsm)
        if unknown and unknown.pool == pool and answer.action == "clear" and answer.ok:
            forget(oracle, unknown)
    close_roots(oracle, touched)


def apply_answer(oracle: Oracle, task: Task, answer: Answer) -> None:
    if answer.action == "clear" and answer.ok:
        if task.cleared is None and task.state == "done" and task.root.state == "ended":
            task.cleared = oracle.tick()
    elif answer.action == "revert" and (answer.ok or answer.code == 441):
        task.to_revert = False
    elif answer.action == "stop" and (answer.ok or answer.code == 411):
        task.stopping = True
