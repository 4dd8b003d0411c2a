"""The history: months made ahead, rows that came too early or late, purging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .world import World, refused

if TYPE_CHECKING:
    from tests.conftest import Connection


@pytest.fixture
def world(db: Connection) -> World:
    return World(db).start()


def over(world: World) -> Any:
    """A command without tasks that is over."""
    document = world.document(0)
    world.plan(document)
    (claim,) = world.claim()
    assert world.finish(claim["token"]) == "ended"
    return document["command_id"]


def month(world: World, months_ago: int) -> tuple[str, str, str]:
    """Year and month as in a partition's name, its first day, the first day of the next."""
    (row,) = world.rows(
        "select to_char(m, 'YYYY_MM') as name, m::date::text as first,"
        " (m + interval '1 month')::date::text as next"
        "  from (select date_trunc('month', now()) - make_interval(months => %s) as m) x",
        months_ago,
    )
    return row["name"], row["first"], row["next"]


def make_partition(world: World, table: str, months_ago: int) -> str:
    """A partition as it was made when that month was to come."""
    name, first, following = month(world, months_ago)
    world.rows("set role atm_owner")
    world.rows(
        f"create table atm_internal.{table}_{name} partition of atm_internal.{table}"
        f" for values from ('{first}') to ('{following}')"
    )
    world.rows("reset role")
    return f"{table}_{name}"


def purge(world: World, keep: int | None, *, dry_run: bool) -> list[str]:
    rows = world.rows("select * from atm.purge_history('old', %s, %s)", keep, dry_run)
    assert all(row["dropped"] is not dry_run for row in rows)
    return [row["partition_name"] for row in rows]


def test_old_months_are_dropped_and_younger_ones_stay(world: World) -> None:
    old, young = make_partition(world, "history", 14), make_partition(world, "history", 2)
    kept = over(world)
    assert purge(world, None, dry_run=True) == [old], "the setting keeps 12 months"
    assert purge(world, None, dry_run=False) == [old]
    assert purge(world, None, dry_run=False) == []
    assert purge(world, 1, dry_run=True) == [young]
    assert world.history(kept)["outcome"] == "succeeded"
    audited = world.rows("select * from atm.audit where function = 'purge_history'")
    assert [row["detail"] for row in audited] == [{"keep_months": 12}] * 2


def test_the_document_of_a_command_that_lives_is_not_dropped(world: World) -> None:
    empty, full = make_partition(world, "plan", 20), make_partition(world, "plan", 15)
    document = world.document(1)
    world.plan(document)
    for table, column in (("root", "created_at"), ("plan", "planned_at")):
        world.rows(f"update atm_internal.{table} set {column} = {column} - interval '15 months'")
    assert purge(world, 12, dry_run=False) == [empty]
    assert world.plan(document), "planned again, it is the same"
    world.one("select atm.abort_command(%s, %s, 'old')", world.epoch, document["command_id"])
    (claim,) = world.claim()
    world.finish(claim["token"])
    assert purge(world, 12, dry_run=False) == [], "its history is young"
    assert world.history(document["command_id"])["plan"] == document
    assert full


def test_a_month_that_nobody_made_loses_nothing_and_can_be_made_later(world: World) -> None:
    name, _, _ = month(world, 0)
    for table in ("plan", "history"):
        world.rows(f"drop table atm_internal.{table}_{name}")
    root = over(world)
    assert world.history(root)["plan"]["command_id"] == root
    findings = world.rows("select * from atm.check()")
    assert [row for row in findings if "partition" in row["finding"]] == []
    assert world.one("select atm.ensure_partitions(0)") == 2
    assert world.one("select atm.ensure_partitions(0)") == 0
    assert world.history(root)["plan"]["command_id"] == root
    for table in ("plan", "history"):
        assert world.one(f"select count(*) from only atm_internal.{table}_{name}") == 1


def test_a_missing_month_ahead_is_a_finding(world: World) -> None:
    name, _, _ = month(world, -1)
    world.rows(f"drop table atm_internal.history_{name}")
    findings = world.rows("select * from atm.check()")
    assert [row["severity"] for row in findings if "partition" in row["finding"]] == ["warning"]


def test_a_purge_without_a_reason_is_refused(world: World) -> None:
    refused(lambda: world.rows("select * from atm.purge_history(' ')"), "AT001")
