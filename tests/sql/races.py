"""Two transactions in a fixed order: the second one calls while the first is not committed."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import IsolationLevel
from psycopg.types.json import Jsonb

from .world import FINISHED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Connect, Connection

    from .world import Row, World

    Call = Callable[[World], Any]

REPEAT = ("40001", "40P01")
LEVELS = (
    IsolationLevel.READ_COMMITTED,
    IsolationLevel.REPEATABLE_READ,
    IsolationLevel.SERIALIZABLE,
)


def code_of(call: Callable[[], Any]) -> str | None:
    """The SQLSTATE that a call raises; None when it succeeds."""
    try:
        call()
    except psycopg.Error as error:
        return error.sqlstate
    return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How two transactions ended, in the order of their calls.

    `codes` are None or a SQLSTATE of class AT, after the repetitions that 40001 and 40P01 ask for;
    `first_try` is before them. `waited`: the second call was seen waiting for a lock.
    """

    codes: tuple[str | None, str | None]
    first_try: tuple[str | None, str | None]
    waited: bool

    def swapped(self) -> Outcome:
        return replace(self, codes=self.codes[::-1], first_try=self.first_try[::-1])


class Race:
    """Runs two transactions so that the second one's call begins before the first one's commit."""

    def __init__(self, world: World, connect: Connect, level: IsolationLevel = LEVELS[0]) -> None:
        self.world = world
        self.level = level
        self._connections = [connect(autocommit=False), connect(autocommit=False)]

    def run(self, first: Call, second: Call) -> Outcome:
        a, b = self._connections
        world_a, world_b = (replace(self.world, db=c) for c in self._connections)
        for connection in self._connections:
            connection.isolation_level = self.level
            connection.execute("select count(*) from atm.commands")  # takes the snapshot
        code_a = code_of(lambda: first(world_a))
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(code_of, lambda: second(world_b))
            waited = waits(self.world, b, running)
            code_a = _end(a, code_a)
            code_b = _end(b, running.result(60))
        codes = (_repeated(world_a, first, code_a), _repeated(world_b, second, code_b))
        return Outcome(codes, (code_a, code_b), waited)

    def either_order(self, swapped: bool, one: Call, other: Call) -> Outcome:
        """What `one` and `other` ended with, whichever came first."""
        return self.run(other, one).swapped() if swapped else self.run(one, other)


def waits(world: World, connection: Connection, running: Future[Any]) -> bool:
    """Returns when the call that runs on a connection waits for a lock (True), or is over."""
    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
    pid = connection.info.backend_pid
    while not running.done():
        if world.one(query, pid):
            return True
        time.sleep(0.002)
    return False


def _end(connection: Connection, code: str | None) -> str | None:
    if code is None:
        code = code_of(connection.commit)
    connection.rollback()
    return code


def _repeated(world: World, call: Call, code: str | None) -> str | None:
    for _ in range(5):
        if code not in REPEAT:
            break
        code = _end(world.db, code_of(lambda: call(world)))
    assert code is None or code.startswith("AT"), code
    return code


ROOTS = """
select c.command_id, c.state, c.outcome, c.open_tasks, c.aborted,
       count(t.task_id) filter (where t.state <> 'done') as really_open,
       coalesce(bool_and(t.outcome = 'succeeded'), true) as all_succeeded
  from atm.commands c
  left join atm.tasks t on t.root_command_id = c.command_id
 where c.command_id = c.root_command_id
 group by 1, 2, 3, 4, 5
"""
ADMITTED_WRONGLY = """
select e.entity_type, e.entity_id
  from (select distinct e.entity_type, e.entity_id, e.access, e.root_command_id
          from atm.entities e
          join atm.commands c on c.command_id = e.root_command_id and c.state <> 'ended') e
 group by 1, 2
having count(distinct e.root_command_id) > 1 and bool_or(e.access = 'exclusive')
"""
AT_VDSM = """
select vdsm_task_id from atm.tasks where vdsm_task_id is not null and cleared_at is null
"""
GIVEN_UP = """
select command_id from atm.commands where state = 'end_failed' and command_id = root_command_id
"""


def contradictions(world: World) -> list[Row]:
    """The roots whose rows contradict each other, and the entities that two hold wrongly."""
    roots = [
        root
        for root in world.rows(ROOTS)
        if root["open_tasks"] != root["really_open"]
        or (root["outcome"] is None) != (root["state"] in ("open", "sealed"))
        or (root["state"] == "sealed" and root["open_tasks"] == 0)
        or (root["state"] not in ("open", "sealed") and root["open_tasks"] > 0)
        or (
            root["outcome"] is not None
            and (root["outcome"] == "succeeded") != (root["all_succeeded"] and not root["aborted"])
        )
    ]
    return roots + world.rows(ADMITTED_WRONGLY)


def bring_to_rest(world: World) -> None:
    """A new engine recovers, VDSM finishes everything, endActions run: nothing may stay."""
    world.one("select atm.set_pool(%s, 'pool', %s)", world.pool_id, Jsonb([{"address": "h1"}]))
    world.epoch = world.start_engine()
    for _ in range(8):
        for pool in world.rows("select * from atm.acquire_pools('poller', 1000, '1 hour')"):
            if pool["open_tasks"]:
                at = replace(world, pool_id=pool["storage_pool_id"], token=pool["token"])
                at.act(at.poll({str(t["vdsm_task_id"]): FINISHED for t in world.rows(AT_VDSM)}))
        for claim in world.claim():
            world.finish(claim["token"])
        for root in world.rows(GIVEN_UP):
            world.rows("select * from atm.cancel_command(%s, 'rest', false)", root["command_id"])
        if world.live_rows() == 0:
            return
    left = world.rows("select * from atm.commands"), world.rows("select * from atm.tasks")
    raise AssertionError(f"this stays for ever: {left}")
