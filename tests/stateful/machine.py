"""The moves that hypothesis combines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .database import LEVELS, Way
from .facts import Settings
from .game import Game
from .moves import ENGINES, ENTITIES, POLLERS, POOLS
from .truth import FAILURE, SUCCESS
from .verdict import come_to_rest, compare

if TYPE_CHECKING:
    from .database import Database
    from .facts import Row
    from .truth import Create

ways = st.builds(
    Way, st.sampled_from(LEVELS), st.sampled_from([True, True, True, True, True, False])
)
indexes = st.integers(0, 7)
flags = st.booleans()
engines = st.sampled_from(ENGINES)
pollers = st.sampled_from(POLLERS)
pools = st.sampled_from(POOLS)
# How old the incarnation that calls is: nearly always the present one.
ages = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2])
faults = st.sampled_from(["", "", "", "", "", "no answer", "refused"])
results = st.sampled_from(["done", "done", "done", "done", "retry", "postpone", "give_up"])
dispositions = st.sampled_from(["clear", "clear", "revert"])
command_calls = st.sampled_from(["seal", "seal", "seal", "abort", "cancel", "retry"])
EVENTS = ("engine", "engine", "pools", "pools", "stray", "loaded", "purge", "drain", "remove")
events = st.sampled_from(EVENTS)
entity_lists = st.lists(
    st.tuples(st.sampled_from(ENTITIES), st.sampled_from(["shared", "shared", "exclusive"])),
    max_size=2,
)
shapes = st.lists(
    st.tuples(st.sampled_from([None, 0, 1]), pools, flags, entity_lists),
    min_size=1,
    max_size=3,
)


def entity_rows(chosen: list[tuple[tuple[str, str], str]]) -> list[Row]:
    return [{"type": kind, "id": ident, "access": access} for (kind, ident), access in chosen]


class NothingError(Exception):
    """There is nothing that this move could be made with."""


class Machine(RuleBasedStateMachine):
    """Two engines, two pollers, an operator, two pools and their VDSM."""

    database: Database
    game: Game

    def __init__(self) -> None:
        super().__init__()
        self.broken = True
        self.restart = False

    @initialize(
        polls=st.integers(1, 2),
        settle=flags,
        absence=flags,
        attempts=st.integers(1, 3),
        orphans=st.sampled_from(["suspected", "suspected", "all"]),
        luck=st.integers(0, 2**16 - 1),
        restart=flags,
        planned=st.lists(st.tuples(engines, shapes, entity_lists), min_size=2, max_size=2),
    )
    def begin(
        self,
        polls: int,
        settle: bool,
        absence: bool,
        attempts: int,
        orphans: str,
        luck: int,
        restart: bool,
        planned: list[Any],
    ) -> None:
        settings = Settings(polls, absence, settle, attempts, orphans)
        self.game = Game(self.database, settings, luck)
        self.restart = restart
        for engine, shape, entities in planned:
            document = self.document(shape, True, entities)
            self.game.plan(self.epoch(engine, 0), document, Way())
        self.broken = False

    @invariant()
    def holds(self) -> None:
        if self.broken:
            return
        self.broken = True
        compare(self.game)
        self.broken = False

    def teardown(self) -> None:
        if not self.broken:
            come_to_rest(self.game, restart=self.restart)

    def epoch(self, engine: str, age: int) -> int:
        epochs = [epoch for name, epoch in self.game.epochs if name == engine]
        return epochs[max(0, len(epochs) - 1 - age)]

    def document(self, shape: list[Any], seal: bool, entities: list[Any]) -> Row:
        """A root with children nested by `shape`, a task each; None puts a task on the root."""
        game = self.game
        root: Row = {
            "command_id": game.fresh_id(),
            "action_type": "Root",
            "entities": entity_rows(entities),
            "tasks": [],
            "children": [],
            "seal": seal,
        }
        at = [root]
        for below, pool, submit, named in shape:
            task = {
                "task_id": game.fresh_id(),
                "task_type": "work",
                "storage_pool_id": pool,
                "submit": submit,
            }
            if below is None:
                root["tasks"].append({**task, "entities": entity_rows(named)})
            else:
                child: Row = {
                    "command_id": game.fresh_id(),
                    "action_type": "Child",
                    "entities": entity_rows(named),
                    "tasks": [task],
                    "children": [],
                }
                at[min(below, len(at) - 1)]["children"].append(child)
                at.append(child)
        return root

    # Engine.

    @rule(engine=engines, age=ages, shape=shapes, seal=flags, entities=entity_lists, way=ways)
    def plan(
        self, engine: str, age: int, shape: list[Any], seal: bool, entities: list[Any], way: Way
    ) -> None:
        self.game.plan(self.epoch(engine, age), self.document(shape, seal, entities), way)

    @precondition(lambda self: self.game.oracle.roots)
    @rule(n=indexes, age=ages, way=ways)
    def plan_again(self, n: int, age: int, way: Way) -> None:
        root = self.pick(n, list(self.game.oracle.roots.values()))
        self.game.plan(self.epoch(root.engine, age), root.document, way)

    @precondition(lambda self: any(r.state == "open" for r in self.game.oracle.roots.values()))
    @rule(n=indexes, m=indexes, age=ages, shape=shapes, way=ways)
    def add_tasks(self, n: int, m: int, age: int, shape: list[Any], way: Way) -> None:
        root = self.pick(n, [r for r in self.game.oracle.roots.values() if r.state == "open"])
        below = self.document(shape, False, [])
        addition = {"tasks": below["tasks"], "children": below["children"]}
        epoch = self.epoch(root.engine, age)
        self.game.add_tasks(epoch, self.pick(m, list(root.parents)), addition, way)

    @precondition(lambda self: self.game.oracle.roots)
    @rule(
        n=indexes,
        m=indexes,
        age=ages,
        what=command_calls,
        flag=flags,
        way=ways,
    )
    def on_command(self, n: int, m: int, age: int, what: str, flag: bool, way: Way) -> None:
        root = self.pick(n, list(self.game.oracle.roots.values()))
        command = self.pick(m, list(root.parents))
        self.game.on_command(what, self.epoch(root.engine, age), command, way, flag=flag)

    @precondition(lambda self: self.game.oracle.tasks())
    @rule(n=indexes, engine=engines, age=ages, way=ways)
    def submit(self, n: int, engine: str, age: int, way: Way) -> None:
        task = self.pick(n, self.game.tasks_of("planned") or self.game.oracle.tasks())
        own = task.root.engine if n < 7 else engine
        self.game.submit(self.epoch(own, age), [task.id], way)

    @precondition(lambda self: self.unbound())
    @rule(n=indexes, steps=st.integers(1, 3), fault=faults, way=ways)
    def engine_works(self, n: int, steps: int, fault: str, way: Way) -> None:
        create = self.pick(n, self.unbound())
        if fault == "no answer":
            self.game.doubt(create.epoch, create.task, way)
        elif fault == "refused" and create.state == "sent":
            create.state = "refused"
        for _ in range(steps):
            if create in self.unbound():
                self.game.advance(create, way)

    @precondition(lambda self: any(c.state == "born" for c in self.game.truth.creates))
    @rule(n=indexes, m=indexes, engine=engines, age=ages, way=ways)
    def bind_and_announce(self, n: int, m: int, engine: str, age: int, way: Way) -> None:
        born = [c for c in self.game.truth.creates if c.state == "born"]
        create = self.pick(n, born)
        planned = self.game.tasks_of("planned")
        following = [self.pick(m, planned).id] if planned else []
        epoch = create.epoch if age == 0 else self.epoch(engine, age - 1)
        self.game.bind(epoch, create.task, create.vdsm or "", following, way)

    # VDSM.

    @precondition(lambda self: any(job.works for job in self.game.truth.jobs.values()))
    @rule(n=indexes, how_many=st.integers(1, 4), success=st.sampled_from([True, True, True, False]))
    def jobs_end(self, n: int, how_many: int, success: bool) -> None:
        working = [job for job in self.game.truth.jobs.values() if job.works]
        for i in range(n, n + how_many):
            self.game.truth.end_job(self.pick(i, working), SUCCESS if success else FAILURE)

    @rule(pool=pools, ghosts=flags, hide=flags, lose=flags)
    def spm_lost(self, pool: str, ghosts: bool, hide: bool, lose: bool) -> None:
        self.game.truth.failover(pool, ghosts=ghosts, hide=hide, lose=lose)

    @rule(settle=flags, absence=flags)
    def time_passes(self, settle: bool, absence: bool) -> None:
        self.game.set_time(settle=settle, absence=absence)

    # What happens less often, in one rule so that it is chosen less often.

    @rule(
        event=events,
        engine=engines,
        poller=pollers,
        pool=pools,
        most=st.integers(0, 2),
        flag=flags,
        way=ways,
    )
    def seldom(
        self, event: str, engine: str, poller: str, pool: str, most: int, flag: bool, way: Way
    ) -> None:
        if event == "engine":
            self.game.start_engine(engine, killed=flag, way=way)
        elif event == "pools":
            self.game.acquire(poller, most, short=flag, way=way)
        elif event == "stray":
            self.game.another_tool(pool)
        elif event == "loaded":
            self.game.truth.load(pool)
        elif event == "drain":
            self.game.drain_pool(pool, way, drained=flag)
        elif event == "remove":
            self.game.remove_pool(pool, way)
        else:
            self.game.purge_history(way)

    # Poller.

    @rule(pool=pools, way=ways)
    def poll(self, pool: str, way: Way) -> None:
        self.game.poll_now(pool, way)

    @rule(pool=pools, n=indexes)
    def begin_poll(self, pool: str, n: int) -> None:
        token = self.game.oracle.pools[pool].token
        if token is None or n == 7:
            token = self.pick(n, self.game.tokens)
        self.game.begin_poll(pool, token)

    @precondition(lambda self: self.game.polls)
    @rule(n=indexes, fault=st.sampled_from(["", "", "", "failed", "garbled"]))
    def list_tasks(self, n: int, fault: str) -> None:
        poll = self.pick(n, self.game.polls)
        if not poll.listed:
            self.game.list_tasks(poll, failed=fault == "failed", garbled=fault == "garbled")

    @precondition(lambda self: any(poll.listed for poll in self.game.polls))
    @rule(n=indexes, way=ways)
    def report(self, n: int, way: Way) -> None:
        self.game.report(self.pick(n, [poll for poll in self.game.polls if poll.listed]), way)

    @precondition(lambda self: self.game.todo)
    @rule(n=indexes)
    def do_chores(self, n: int) -> None:
        self.game.do_chores(self.pick(n, self.game.todo))

    @precondition(lambda self: self.game.answers)
    @rule(n=indexes, way=ways)
    def report_actions(self, n: int, way: Way) -> None:
        self.game.report_actions(self.pick(n, self.game.answers), way)

    # endAction and the operator.

    @rule(engine=engines, result=results, disposition=dispositions, way=ways)
    def end_actions(self, engine: str, result: str, disposition: str, way: Way) -> None:
        self.game.claim(self.epoch(engine, 0), short=False, way=Way())
        for root in self.game.claimed(engine):
            self.game.finish(root, result, later=False, disposition=disposition, way=way)

    @rule(engine=engines, age=ages, short=flags, way=ways)
    def claim(self, engine: str, age: int, short: bool, way: Way) -> None:
        self.game.claim(self.epoch(engine, age), short=short, way=way)

    @precondition(lambda self: len(self.game.claims) > 1)
    @rule(n=indexes, result=results, disposition=dispositions, later=flags, way=ways)
    def finish(self, n: int, result: str, disposition: str, later: bool, way: Way) -> None:
        self.game.finish(self.token(n), result, later=later, disposition=disposition, way=way)

    @precondition(lambda self: len(self.game.claims) > 1)
    @rule(n=indexes, short=flags, way=ways)
    def extend(self, n: int, short: bool, way: Way) -> None:
        self.game.extend(self.token(n), short=short, way=way)

    @precondition(lambda self: self.game.oracle.tasks())
    @rule(n=indexes, outcome=st.sampled_from(["failed", "lost"]), way=ways)
    def resolve_task(self, n: int, outcome: str, way: Way) -> None:
        open_ones = self.game.tasks_of("in_doubt") + self.game.tasks_of("running")
        task = self.pick(n, open_ones or self.game.oracle.tasks())
        self.game.resolve_task(task.id, outcome, way)

    @precondition(lambda self: self.game.oracle.unknowns)
    @rule(n=indexes, way=ways)
    def resolve_orphan(self, n: int, way: Way) -> None:
        self.game.resolve_orphan(self.pick(n, list(self.game.oracle.unknowns)), way)

    def pick(self, n: int, among: list[Any]) -> Any:
        if not among:
            raise NothingError
        return among[n % len(among)]

    def token(self, n: int) -> int:
        """Of a claim, sooner a good one than an old one."""
        good = [*self.game.claimed(ENGINES[0]), *self.game.claimed(ENGINES[1])]
        return self.pick(n, good if good and n < 5 else self.game.claims)

    def unbound(self) -> list[Create]:
        bound = {task.id for task in self.game.oracle.tasks() if task.vdsm}
        live = {task.id for task in self.game.oracle.tasks()} - bound
        return [c for c in self.game.truth.creates if c.task in live or c.may_come]
