"""Every pair of operations that can meet, in both orders, under each isolation level.

A row of the table names two operations, what they meet on, and what both end with when the first
or when the other one was first. Each order is run under READ COMMITTED, REPEATABLE READ and
SERIALIZABLE: the second call must really have waited where the row says so, rows must not
contradict each other afterwards, and a new engine must be able to bring everything to its end.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .races import LEVELS, Race, bring_to_rest, contradictions
from .world import FINISHED, Row, World, status

if TYPE_CHECKING:
    from tests.conftest import Connect, Connection

    from .races import Call


@dataclass
class Scene:
    """What two operations meet on; made anew for each run."""

    world: World
    document: Row = field(default_factory=dict)
    tasks: list[uuid.UUID] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """VDSM's ids: of the bound tasks, or the answers that a bind brings."""
    claim: int = 0
    started: Any = None
    """The begin of a poll after all that was prepared."""
    second: World | None = None
    """The same engine and poller, another storage pool."""

    @property
    def root(self) -> str:
        return str(self.document["command_id"])


# What is there before.


def planned(world: World, tasks: int = 2, *, submit: bool = False, **root: Any) -> Scene:
    root.setdefault("entities", [{"type": "VM", "id": str(uuid.uuid4()), "access": "exclusive"}])
    document = world.document(tasks, submit=submit, **root)
    ids = [row["task_id"] for row in world.plan(document)]
    return Scene(world, document, ids, [str(uuid.uuid4()) for _ in ids])


announced = partial(planned, submit=True)


def in_doubt(world: World) -> Scene:
    scene = announced(world, 1)
    doubt(world, scene)
    return scene


def bound(world: World, tasks: int = 1, **root: Any) -> Scene:
    scene = announced(world, tasks, **root)
    for task, vdsm_id in zip(scene.tasks, scene.ids, strict=True):
        world.bind(task, vdsm_id)
    return scene


open_and_bound = partial(bound, seal=False)


def announced_first(world: World) -> Scene:
    """Two tasks: the first one is announced, the next one is not."""
    scene = planned(world, 2)
    world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, scene.tasks[:1])
    return scene


def finished(world: World) -> Scene:
    scene = bound(world)
    world.poll(dict.fromkeys(scene.ids, FINISHED))
    return scene


def claimed(world: World, lease: str = "1 microsecond") -> Scene:
    scene = finished(world)
    (scene.claim,) = (claim["token"] for claim in world.claim(lease=lease))
    return scene


def reverting(world: World) -> Scene:
    scene = claimed(world)
    world.finish(scene.claim, disposition="revert")
    return scene


def given_up(world: World) -> Scene:
    scene = claimed(world)
    world.finish(scene.claim, "give_up")
    return scene


def ended(world: World) -> Scene:
    scene = claimed(world)
    world.finish(scene.claim)
    world.poll(dict.fromkeys(scene.ids, FINISHED))
    return scene


def in_two_pools(world: World, prepare: Callable[[World], Scene] | None = None) -> Scene:
    """Two tasks, bound in two storage pools."""
    second = second_pool(world)
    second.acquire()
    world.acquire()
    document = world.document(2, submit=True)
    document["children"][1]["tasks"][0]["storage_pool_id"] = str(second.pool_id)
    tasks = [row["task_id"] for row in world.plan(document)]
    ids = [world.bind(task) for task in tasks]
    return Scene(world, document, tasks, ids, second=second)


def ended_in_two_pools(world: World, disposition: str = "clear") -> Scene:
    scene = in_two_pools(world)
    assert scene.second is not None
    for at, vdsm_id in zip((world, scene.second), scene.ids, strict=True):
        at.poll({vdsm_id: FINISHED})
    (claim,) = world.claim()
    world.finish(claim["token"], disposition=disposition)
    return scene


def reverting_in_two_pools(world: World) -> Scene:
    return ended_in_two_pools(world, "revert")


def orphaned(world: World) -> Scene:
    """An unfinished unknown, whose suspect is in doubt since the engine is another."""
    scene = announced(world, 1)
    world.poll({scene.ids[0]: status()})
    world.epoch = world.start_engine()
    return scene


def not_yet_planned(world: World) -> Scene:
    return Scene(world, world.document(2, entities=[{"type": "VM", "id": str(uuid.uuid4())}]))


def idle(world: World) -> Scene:
    world.poll({})
    return not_yet_planned(world)


def used_up(world: World) -> Scene:
    """The pool has nothing any more, and no poll has seen that yet."""
    scene = ended(world)
    cleared(world, scene)
    return not_yet_planned(world)


def second_pool(world: World) -> World:
    second = replace(world, pool_id=uuid.uuid4())
    second.one("select atm.set_pool(%s, 'second', %s)", second.pool_id, Jsonb([{"address": "h"}]))
    return second


def beside_an_unused_pool(world: World) -> Scene:
    """A plan for two storage pools, neither of which has anything to do."""
    scene = idle(world)
    scene.second = second_pool(world)
    scene.document["children"][1]["tasks"][0]["storage_pool_id"] = str(scene.second.pool_id)
    return scene


def open_beside_an_unused_pool(world: World) -> Scene:
    scene = open_and_bound(world)
    scene.second = second_pool(world)
    return scene


# What happens. Each is called with the connection that makes the call, and the scene.


def plan(w: World, s: Scene) -> Any:
    return w.plan(s.document)


def plan_again_for_the_same(w: World, s: Scene) -> Any:
    return w.plan(w.document(1, entities=s.document["entities"]))


def add(w: World, s: Scene) -> Any:
    addition = {"children": w.document(1)["children"]}
    return w.rows("select * from atm.add_tasks(%s, %s, %s)", w.epoch, s.root, Jsonb(addition))


def add_in_the_second_pool(w: World, s: Scene) -> Any:
    assert s.second is not None
    addition = {"children": replace(s.second, db=w.db).document(1)["children"]}
    return w.rows("select * from atm.add_tasks(%s, %s, %s)", w.epoch, s.root, Jsonb(addition))


def seal(w: World, s: Scene) -> Any:
    return w.one("select atm.seal_command(%s, %s)", w.epoch, s.root)


def abort(w: World, s: Scene) -> Any:
    return w.one("select atm.abort_command(%s, %s, 'race', true)", w.epoch, s.root)


def submit(w: World, s: Scene) -> Any:
    return w.rows("select * from atm.submit_tasks(%s, %s)", w.epoch, s.tasks)


def bind(w: World, s: Scene) -> Any:
    return w.bind(s.tasks[0], s.ids[0])


def bind_and_submit_next(w: World, s: Scene) -> Any:
    return w.bind(s.tasks[0], s.ids[0], s.tasks[1])


def fail(w: World, s: Scene) -> Any:
    return w.one("select atm.fail_task(%s, %s, 'race')", w.epoch, s.tasks[0])


def doubt(w: World, s: Scene) -> Any:
    return w.one("select atm.doubt_task(%s, %s, 'race')", w.epoch, s.tasks[0])


def start_engine(w: World, _: Scene) -> Any:
    return w.start_engine()


def claim(w: World, _: Scene) -> Any:
    return w.claim()


def extend(w: World, s: Scene) -> Any:
    return w.one("select atm.extend_end_action(%s, '1 hour')", s.claim)


def finish(w: World, s: Scene) -> Any:
    return w.finish(s.claim)


def finish_to_revert(w: World, s: Scene) -> Any:
    return w.finish(s.claim, disposition="revert")


def give_up(w: World, s: Scene) -> Any:
    return w.finish(s.claim, "give_up")


def report(w: World, s: Scene, listed: Row | None = FINISHED) -> Any:
    """All ids of the scene are listed with this status; None: VDSM lists nothing."""
    ids = s.ids if s.second is None else s.ids[:1]
    return w.poll(dict.fromkeys(ids, listed) if listed else {}, started=s.started)


def report_nothing(w: World, s: Scene) -> Any:
    return report(w, s, None)


def report_of_the_second_pool(w: World, s: Scene) -> Any:
    assert s.second is not None
    return replace(s.second, db=w.db).poll({s.ids[1]: FINISHED}, started=s.started)


def answered(w: World, s: Scene, action: str) -> Any:
    """VDSM has done this with every task of the scene that is in the first pool."""
    ids = s.ids if s.second is None else s.ids[:1]
    return w.act([{"vdsm_task_id": i, "action": action} for i in ids])


def answered_in_the_second_pool(w: World, s: Scene, action: str) -> Any:
    assert s.second is not None
    return replace(s.second, db=w.db).act([{"vdsm_task_id": s.ids[1], "action": action}])


def cleared(w: World, s: Scene) -> Any:
    return answered(w, s, "clear")


def cleared_in_the_second_pool(w: World, s: Scene) -> Any:
    return answered_in_the_second_pool(w, s, "clear")


def reverted(w: World, s: Scene) -> Any:
    return answered(w, s, "revert")


def reverted_in_the_second_pool(w: World, s: Scene) -> Any:
    return answered_in_the_second_pool(w, s, "revert")


def cancel(w: World, s: Scene) -> Any:
    return w.rows("select * from atm.cancel_command(%s, 'race', false)", s.root)


def resolve(w: World, s: Scene) -> Any:
    return w.one("select atm.resolve_task(%s, 'lost', 'race', false)", s.tasks[0])


def retry(w: World, s: Scene) -> Any:
    return w.one("select atm.retry_end_action(%s, 'race', false)", s.root)


def resolve_orphan(w: World, s: Scene) -> Any:
    return w.one("select atm.resolve_orphan(%s, 'race', false)", s.ids[0])


def remove_pool(w: World, _: Scene) -> Any:
    return w.one("select atm.remove_pool(%s, 'race', false)", w.pool_id)


def remove_the_second_pool(w: World, s: Scene) -> Any:
    assert s.second is not None
    return remove_pool(replace(s.second, db=w.db), s)


def drain_pool(w: World, _: Scene) -> Any:
    return w.one("select atm.drain_pool(%s, 'race', true, false)", w.pool_id)


def set_pool(w: World, _: Scene) -> Any:
    return w.one("select atm.set_pool(%s, 'renamed', %s)", w.pool_id, Jsonb([{"address": "h9"}]))


def release_pools(w: World, _: Scene) -> Any:
    return w.one("select atm.release_pools('poller')")


Prepare = Callable[[World], Scene]
Operation = Callable[[World, Scene], Any]
Codes = tuple[str | None, str | None]
OK: Codes = (None, None)
NEVER = (False, False)


@dataclass(frozen=True, slots=True)
class Meeting:
    """A row of the table.

    Attributes:
        one, other: the operations.
        on: prepares what they meet on.
        one_first, other_first: what `one` and `other` end with in that order.
        waits: whether the second call has to wait, in the two orders.
    """

    one: Operation
    other: Operation
    on: Prepare
    one_first: Codes = OK
    other_first: Codes = OK
    waits: tuple[bool, bool] = (True, True)

    def __str__(self) -> str:
        on = self.on.func if isinstance(self.on, partial) else self.on
        return f"{self.one.__name__}-{self.other.__name__}-{on.__name__}"


MEETINGS: list[Meeting] = [
    # A root that is still open, and the report of its last task.
    Meeting(add, report, open_and_bound),
    Meeting(seal, report, open_and_bound),
    Meeting(abort, report, bound, other_first=("AT107", None)),
    Meeting(abort, report, open_and_bound),
    Meeting(add, seal, open_and_bound, other_first=("AT103", None)),
    Meeting(add, abort, open_and_bound, other_first=("AT103", None)),
    Meeting(add, add, open_and_bound),
    # What VDSM is told to do, and what it says meanwhile.
    Meeting(cleared, report, ended),
    Meeting(cleared, report_of_the_second_pool, ended_in_two_pools, waits=NEVER),
    Meeting(cleared, cleared_in_the_second_pool, ended_in_two_pools),
    Meeting(reverted, report, reverting),
    Meeting(reverted, reverted_in_the_second_pool, reverting_in_two_pools),
    Meeting(cleared, report_nothing, ended),
    # The last two tasks of a root.
    Meeting(report, report_of_the_second_pool, in_two_pools),
    # A new incarnation of the engine, and everything the older one may be doing.
    Meeting(plan, start_engine, not_yet_planned, other_first=("AT201", None)),
    Meeting(add, start_engine, open_and_bound, other_first=("AT201", None)),
    Meeting(seal, start_engine, open_and_bound, other_first=("AT201", None)),
    Meeting(abort, start_engine, planned, other_first=("AT201", None)),
    Meeting(submit, start_engine, planned, other_first=("AT201", None)),
    Meeting(bind, start_engine, announced, other_first=("AT201", None)),
    Meeting(bind_and_submit_next, start_engine, announced_first, other_first=("AT201", None)),
    Meeting(fail, start_engine, announced, other_first=("AT201", None)),
    Meeting(doubt, start_engine, announced, other_first=("AT201", None)),
    Meeting(bind, start_engine, in_doubt, other_first=("AT201", None)),
    # A claim skips what is locked: it gets nothing.
    Meeting(claim, start_engine, finished, waits=(True, False)),
    Meeting(finish, start_engine, claimed, other_first=("AT203", None)),
    Meeting(extend, start_engine, claimed, other_first=("AT203", None)),
    Meeting(report, start_engine, bound),
    Meeting(start_engine, start_engine, announced),
    # A lease that has run out.
    Meeting(finish, claim, claimed, other_first=("AT203", None), waits=(False, True)),
    Meeting(extend, claim, claimed, other_first=("AT203", None), waits=(False, True)),
    Meeting(finish, finish, claimed, (None, "AT203"), ("AT203", None)),
    Meeting(finish_to_revert, claim, claimed, OK, ("AT203", None), (False, True)),
    Meeting(give_up, claim, claimed, other_first=("AT203", None), waits=(False, True)),
    # An operator cancels.
    Meeting(cancel, add, open_and_bound, (None, "AT103")),
    Meeting(cancel, seal, open_and_bound),
    Meeting(cancel, abort, planned, (None, "AT107"), ("AT107", None)),
    Meeting(cancel, submit, planned),
    # A cancel touches planned tasks only: what is announced, its engine binds.
    Meeting(cancel, bind, announced, waits=NEVER),
    Meeting(cancel, bind_and_submit_next, announced_first),
    Meeting(cancel, fail, announced),
    Meeting(cancel, doubt, announced),
    Meeting(cancel, report, bound, other_first=("AT107", None)),
    Meeting(cancel, start_engine, planned, other_first=("AT107", None)),
    Meeting(cancel, claim, finished, ("AT107", None), ("AT107", None), (False, True)),
    Meeting(cancel, resolve, bound, other_first=("AT107", None)),
    Meeting(cancel, cancel, bound),
    Meeting(cancel, retry, given_up, (None, "AT107"), ("AT107", None)),
    Meeting(cancel, cancel, given_up, (None, "AT107"), ("AT107", None)),
    # An operator's word, and VDSM's.
    Meeting(resolve, report, bound, other_first=("AT104", None)),
    Meeting(resolve, bind, in_doubt, (None, "AT104"), OK),
    Meeting(resolve, resolve, bound, (None, "AT104"), ("AT104", None)),
    Meeting(resolve_orphan, report, orphaned),
    Meeting(report_nothing, bind, in_doubt, (None, "AT104"), OK),
    Meeting(report_nothing, fail, in_doubt, (None, "AT104"), OK),
    Meeting(report, bind, announced, waits=NEVER),
    Meeting(report, doubt, announced, waits=NEVER),
    Meeting(report, fail, announced, waits=NEVER),
    # Admission.
    Meeting(plan, plan, not_yet_planned),
    Meeting(plan_again_for_the_same, finish, claimed, ("AT301", None), OK, (False, True)),
    # Storage pools.
    Meeting(plan, remove_pool, idle, (None, "AT108"), ("AT007", None)),
    Meeting(plan, drain_pool, idle, OK, ("AT109", None)),
    Meeting(plan, remove_pool, used_up, (None, "AT108"), ("AT007", None)),
    Meeting(plan, remove_the_second_pool, beside_an_unused_pool, (None, "AT108"), ("AT007", None)),
    Meeting(
        add_in_the_second_pool,
        remove_the_second_pool,
        open_beside_an_unused_pool,
        (None, "AT108"),
        ("AT007", None),
    ),
    # A plan never waits for a poll: it may hold a root that the report wants.
    Meeting(plan, report_nothing, idle, waits=(True, False)),
    Meeting(report, remove_pool, idle, other_first=("AT202", None)),
    Meeting(report, set_pool, bound, waits=(True, False)),
    Meeting(report, release_pools, bound, other_first=("AT202", None)),
]


def on(scene: Scene, operation: Operation) -> Call:
    return lambda w: operation(w, scene)


@pytest.mark.parametrize("meeting", MEETINGS, ids=str)
def test_two_that_meet(db: Connection, connect: Connect, meeting: Meeting) -> None:
    names = [meeting.one.__name__, meeting.other.__name__]
    found: list[str] = []
    wanted: list[str] = []
    race = Race(World(db), connect)
    for level in LEVELS:
        race.level = level
        for swapped in (False, True):
            race.world = world = World(db, engine_name=str(uuid.uuid4())).start()
            scene = meeting.on(world)
            scene.started = world.now()
            outcome = race.either_order(
                swapped,
                lambda w, s=scene: meeting.one(w, s),
                lambda w, s=scene: meeting.other(w, s),
            )
            assert contradictions(world) == []
            when = f"{level.name}, {names[swapped]} first:"
            codes = meeting.other_first if swapped else meeting.one_first
            found.append(f"{when} {outcome.codes}, waited: {outcome.waited}")
            wanted.append(f"{when} {codes}, waited: {meeting.waits[swapped]}")
            if level is LEVELS[0]:
                assert outcome.first_try == outcome.codes, f"{when} had to be repeated"
            bring_to_rest(world)
    assert found == wanted
