"""The invariants, after each step and when the faults have stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .database import Way
from .moves import ENGINES, ENTITIES, POLLERS, POOLS
from .truth import SUCCESS

if TYPE_CHECKING:
    from .facts import Entity, Unknown
    from .game import Game
    from .oracle import Oracle

Rows = set[tuple[Any, ...]]


def compare(game: Game) -> None:
    """The views are what the oracle says, and both are true."""
    found = game.db.seen()
    wanted = [tasks(game.oracle), commands(game.oracle), entities(game.oracle), orphans(game)]
    for name, ours, theirs in zip(
        ("tasks", "commands", "entities", "orphans"), wanted, found, strict=True
    ):
        assert theirs == ours, f"atm.{name}: has {theirs - ours}, lacks {ours - theirs}"
    for entity, (free, holders) in game.db.asked(ENTITIES).items():
        assert holders == {root.id for root in game.oracle.holders(entity)}
        assert free == game.oracle.can_compensate(entity), f"can_compensate{entity}: {free}"
        assert not (free and (danger := at_work(game, entity))), f"{entity}: {danger} may work"
    exclude_each_other(game.oracle)
    leave_when_over(game)


def tasks(oracle: Oracle) -> Rows:
    nothing = (None, None, None)
    return {
        (
            task.id, task.root.id, task.state, task.outcome, task.vdsm,
            *(task.said or (*nothing, task.message)), task.cleared is not None,
        )
        for task in oracle.tasks()
    }  # fmt: skip


def commands(oracle: Oracle) -> Rows:
    return {
        (command, root.id, root.state, root.outcome, root.open_tasks, root.attempt, root.aborted)
        for root in oracle.roots.values()
        for command in root.parents
    }


def entities(oracle: Oracle) -> Rows:
    rows: Rows = set()
    for root in oracle.roots.values():
        if not (root.live or root.released):
            continue
        command_of = {task.id: task.command for task in root.tasks}
        for entity, hold in root.holds.items():
            access = "exclusive" if hold.exclusive else "shared"
            rows |= {(*entity, access, None, command, root.id) for command in hold.commands}
            rows |= {(*entity, access, task, command_of[task], root.id) for task in hold.tasks}
    return rows


def orphans(game: Game) -> Rows:
    return {(u.id, u.said[0], meaning(u)) for u in game.oracle.unknowns.values()}


def meaning(unknown: Unknown) -> str:
    suspects = unknown.live_suspects()
    if unknown.resolved:
        return "resolved: followed, nobody waits for it"
    if any(task.may_bind for task in suspects):
        return "a running engine may still bind it"
    if unknown.suspected or suspects:
        return "orphan: followed to its end and cleared"
    return "not ours: only reported (orphan_policy)"


def at_work(game: Game, entity: Entity) -> list[str]:
    """What may touch an entity at VDSM, now or later, in truth."""
    ours = {
        task.id
        for root in (*game.oracle.roots.values(), *game.oracle.history.values())
        for task in root.touching(entity)
    }
    coming = [create.task for create in game.truth.creates if create.may_come]
    working = [
        job.origin.task
        for job in game.truth.jobs.values()
        if job.origin and job.works and not is_given_up(game, job.id)
    ]
    return [task for task in (*coming, *working) if task in ours]


def is_given_up(game: Game, vdsm: str) -> bool:
    """An operator has taken the word for it that nobody waits for this orphan."""
    unknown = game.oracle.unknowns.get(vdsm)
    return unknown is not None and unknown.resolved


def exclude_each_other(oracle: Oracle) -> None:
    for entity in ENTITIES:
        holds = [root.holds[entity] for root in oracle.holders(entity)]
        assert len(holds) < 2 or not any(hold.exclusive for hold in holds)


def leave_when_over(game: Game) -> None:
    """Who has left the live tables is in the history, as it was, and its effect happened once."""
    for root_id, root in game.oracle.history.items():
        if root in game.left:
            continue
        game.left.append(root)
        row = game.db.over(root_id)
        assert row is not None, f"{root_id} is neither live nor in the history"
        succeeded = sum(task.outcome == "succeeded" for task in root.tasks)
        assert row == {
            "outcome": root.outcome,
            "succeeded": succeeded,
            "aborted": root.aborted,
            "effects": int(root_id in game.finished),
        }
        if root.outcome == "succeeded":
            for task in root.tasks:
                assert game.truth.executed.get(task.id) == SUCCESS, f"{task.id} was not executed"
        for task in root.tasks:
            job = game.truth.jobs.get(task.vdsm or "")
            assert job is None or job.hidden or not job.works, f"{task.id} still works at VDSM"


def come_to_rest(game: Game, *, restart: bool) -> None:
    """The faults stop: a bounded number of polls brings everything to its end."""
    way = Way()
    for pool in POOLS:
        game.truth.load(pool)
    game.set_time(settle=True, absence=True)
    finish_engines(game, restart=restart)
    for pool in POOLS:
        game.truth.load(pool)
    for job in game.truth.jobs.values():
        game.truth.end_job(job, SUCCESS)
    for poller in POLLERS:
        game.acquire(poller, 0, short=False, way=way)
    game.acquire(POLLERS[0], len(POOLS), short=False, way=way)
    for _ in range(4):
        for root in list(game.oracle.roots.values()):
            if root.state == "end_failed" or (root.state == "ready" and not root.due):
                game.on_command("retry", 0, root.id, way, flag=False)
        for name in ENGINES:
            game.claim(game.oracle.epochs[name], short=True, way=way)
        for root in list(game.oracle.roots.values()):
            if root.token is not None:
                game.finish(root.token, "done", later=False, disposition="clear", way=way)
        for _ in range(game.oracle.settings.absence_polls + 1):
            for pool in POOLS:
                game.poll_now(pool, way)
        compare(game)
    assert not game.oracle.roots, "some command never ends"
    assert game.db.seen()[:3] == [set(), set(), set()]
    left = [job.id for job in game.truth.jobs.values() if job.origin]
    assert not left, f"VDSM keeps {left} for ever"
    waiting = [waits for (waits,) in game.db.owner.execute("select waits_for from atm.stuck")]
    assert not waiting


def finish_engines(game: Game, *, restart: bool) -> None:
    """Every engine starts again; or goes on until all its tasks are bound."""
    way = Way()
    for name in ENGINES:
        if restart:
            game.start_engine(name, killed=True, way=way)
            continue
        epoch = game.oracle.epochs[name]
        for root in [r for r in game.oracle.roots.values() if r.engine == name]:
            if root.state == "open":
                game.on_command("seal", epoch, root.id, way, flag=False)
            planned = [task.id for task in root.tasks if task.state == "planned"]
            game.submit(epoch, planned, way)
    for create in game.truth.creates:
        while create.may_come:
            game.advance(create, way)
        task = next((task for task in game.oracle.tasks() if task.id == create.task), None)
        if task and task.may_bind:
            game.advance(create, way)
