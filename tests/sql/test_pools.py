"""Storage pools: leases shared by pollers, drained, removed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from .world import FINISHED, World, refused

if TYPE_CHECKING:
    from tests.conftest import Connection

HOSTS = Jsonb([{"address": "h1"}])


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def acquire(world: World, poller: str, most: int, lease: str = "1 hour") -> dict[Any, int]:
    """The tokens of the pools that the poller holds afterwards."""
    rows = world.rows("select * from atm.acquire_pools(%s, %s, %s::interval)", poller, most, lease)
    return {row["storage_pool_id"]: row["token"] for row in rows}


def test_pollers_share_the_pools_and_give_up_what_is_more_than_they_want(world: World) -> None:
    for _ in range(3):
        world.one("select atm.set_pool(%s, 'more', %s)", uuid.uuid4(), HOSTS)
    held = acquire(world, "poller", 4)
    assert len(held) == 4
    assert acquire(world, "other", 4) == {}
    assert acquire(world, "poller", 4) == held, "tokens stay"
    fewer = acquire(world, "poller", 1)
    assert fewer.items() <= held.items()
    assert len(fewer) == 1
    others = acquire(world, "other", 2)
    assert len(others) == 2
    assert not others.keys() & fewer.keys()
    assert acquire(world, "poller", 0) == {}
    assert world.one("select atm.release_pools('other')") == 2
    assert world.one("select atm.release_pools('other')") == 0
    again = acquire(world, "poller", 4)
    assert again.keys() == held.keys()
    assert not set(again.values()) & {*held.values(), *others.values()}, "each with a new token"


def test_a_lease_that_has_run_out_is_taken_over_and_the_old_token_refused(world: World) -> None:
    acquire(world, "poller", 0)
    old = acquire(world, "slow", 1, "1 microsecond")[world.pool_id]
    new = acquire(world, "poller", 1)[world.pool_id]
    assert new > old
    error = refused(lambda: world.poll(token=old), "AT202")
    assert "held by 'poller'" in (error.diag.message_detail or "")
    world.poll(token=new)


def test_a_pool_that_is_drained_finishes_what_it_has_and_takes_no_more(world: World) -> None:
    _, _, (vdsm,) = world.planned_and_bound(1)
    drain = "select atm.drain_pool(%s, 'maintenance', %s, %s)"
    said = world.one(drain, world.pool_id, True, True)
    assert said == "would be drained: new tasks are refused, 1 live tasks"
    world.plan(world.document(1))
    said = world.one(drain, world.pool_id, True, False)
    assert said == "drained: new tasks are refused, 2 live tasks"
    refused(lambda: world.plan(world.document(1)), "AT109")
    world.poll({vdsm: FINISHED})
    assert len(world.claim()) == 1
    said = world.one(drain, world.pool_id, False, False)
    assert said == "open again, 2 live tasks"
    assert world.plan(world.document(1))


def test_a_pool_without_tasks_can_be_removed_and_set_again(world: World) -> None:
    world.one("select atm.drain_pool(%s, 'to go', true, false)", world.pool_id)
    remove = "select atm.remove_pool(%s, 'gone', %s)"
    assert world.one(remove, world.pool_id, True) == "would be removed"
    assert len(world.rows("select * from atm.pools")) == 1
    assert world.one(remove, world.pool_id, False) == "removed"
    assert world.rows("select * from atm.pools") == []
    refused(lambda: world.one(remove, world.pool_id, False), "AT008")
    refused(lambda: world.poll(), "AT202")
    refused(lambda: world.plan(world.document(1)), "AT007")
    assert acquire(world, "poller", 9) == {}
    world.one("select atm.set_pool(%s, 'back', %s)", world.pool_id, HOSTS)
    world.acquire()
    assert world.plan(world.document(1)), "the drain is over too"


def test_a_pool_with_an_orphan_is_not_removed(world: World) -> None:
    orphan = str(uuid.uuid4())
    world.poll({orphan: FINISHED})
    remove = "select atm.remove_pool(%s, 'gone', false)"
    refused(lambda: world.one(remove, world.pool_id), "AT108")
    world.one("select atm.resolve_orphan(%s, 'not ours', false)", orphan)
    assert world.one(remove, world.pool_id) == "removed"
