"""What the transactions of the search may do: a small world, and calls on its rows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from tests.sql.world import FINISHED, World, status

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    import psycopg

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call; its rows show nothing that differs between two runs (times, tokens)."""

    name: str
    query: str
    args: tuple[Any, ...]

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Stage:
    """The ids of the world that `build` has made."""

    ids: Values

    def __getitem__(self, name: str) -> Any:
        return self.ids[name]


def entity(kind: str, number: int, access: str = "shared") -> Values:
    return {"type": kind, "id": str(uuid.UUID(int=number)), "access": access}


def document(pool: Any, tasks: int, *entities: Values, **more: Any) -> Values:
    """A root with tasks of its own."""
    return {
        "command_id": str(uuid.uuid4()),
        "action_type": "Root",
        "entities": list(entities),
        "tasks": [
            {"task_id": str(uuid.uuid4()), "task_type": "work", "storage_pool_id": str(pool)}
            for _ in range(tasks)
        ],
        **more,
    }


def build(db: psycopg.Connection[Any]) -> Stage:
    """Commands in all states, in two pools, with a poller for each."""
    world = World(db).start()
    second = replace(world, pool_id=uuid.uuid4(), vdsm=world.vdsm)
    world.one("select atm.set_pool(%s, 'second', %s)", second.pool_id, Jsonb([{"address": "h"}]))
    second.acquire()
    ids: Values = {"pool": world.pool_id, "second": second.pool_id, "epoch": world.epoch}
    ids["spare"] = uuid.uuid4()
    world.one("select atm.set_pool(%s, 'spare', %s)", ids["spare"], Jsonb([{"address": "h"}]))

    def planned(tasks: int, *entities: Values, **more: Any) -> list[Values]:
        return world.plan(document(world.pool_id, tasks, *entities, **more))

    def submitted(tasks: int, *entities: Values) -> list[Values]:
        rows = planned(tasks, *entities)
        sent = [row["task_id"] for row in rows]
        world.rows("select * from atm.submit_tasks(%s, %s)", world.epoch, sent)
        return rows

    both = document(world.pool_id, 2, entity("VM", 1, "exclusive"))
    both["tasks"][1]["storage_pool_id"] = str(second.pool_id)
    for task in both["tasks"]:
        task["submit"] = True
    rows = world.plan(both)
    ids["both"] = both["command_id"]
    ids["first"], ids["last"] = (row["task_id"] for row in rows)
    ids["first vdsm"], ids["last vdsm"] = (world.bind(row["task_id"]) for row in rows)
    half, ids["planned"] = (row["task_id"] for row in submitted(1, entity("VM", 2)) + planned(1))
    ids["submitting"], ids["half"] = half, world.task(half)["root_command_id"]
    rows = planned(1, entity("VM", 3), seal=False)
    ids["open"], ids["open task"] = rows[0]["root_command_id"], rows[0]["task_id"]

    def over(**finish: Any) -> tuple[Any, str]:
        (row,) = submitted(1, entity("Disk", 1))
        vdsm = world.bind(row["task_id"])
        world.vdsm[vdsm] = FINISHED
        world.poll()
        (claim,) = world.claim(lease="1 microsecond")
        if finish:
            world.finish(claim["token"], **finish)
        else:
            ids["token"] = claim["token"]
        return row["root_command_id"], vdsm

    ids["end failed"], _ = over(result="give_up")
    ids["ended"], ids["ended vdsm"] = over(disposition="clear")
    ids["reverting"], ids["revert vdsm"] = over(disposition="revert")
    wide = document(world.pool_id, 2)
    wide["tasks"][1]["storage_pool_id"] = str(second.pool_id)
    rows = world.plan(wide)
    world.rows(
        "select * from atm.submit_tasks(%s, %s)", world.epoch, [row["task_id"] for row in rows]
    )
    ids["wide vdsm"], ids["wide second vdsm"] = (world.bind(row["task_id"]) for row in rows)
    world.vdsm[ids["wide vdsm"]] = world.vdsm[ids["wide second vdsm"]] = FINISHED
    world.poll()
    second.poll({ids["wide second vdsm"]: FINISHED, ids["last vdsm"]: status()})
    (claim,) = world.claim()
    world.finish(claim["token"], disposition="revert")
    ids["claimed"], ids["claimed vdsm"] = over()
    ids["stray"] = str(uuid.uuid4())
    world.poll({**world.vdsm, ids["stray"]: status()})
    (row,) = submitted(1, entity("Disk", 2, "exclusive"))
    ids["doubtful"] = row["task_id"]
    world.one("select atm.doubt_task(%s, %s, 'no answer')", world.epoch, row["task_id"])
    ids["tokens"] = {world.pool_id: world.token, second.pool_id: second.token}
    ids["vdsm"] = dict(world.vdsm)
    return Stage(ids)


def catalogue(stage: Stage, dice: random.Random, now: Any) -> dict[str, Callable[[], Call]]:
    """The calls by the name of their caller's intention; `now` is a time before all of them."""
    epoch = stage["epoch"]

    def on_task(function: str, task: str) -> Call:
        query = f"select atm.{function}(%s, %s, 'because')"
        return Call(f"{function} {task}", query, (epoch, stage[task]))

    def on_root(function: str, root: str, more: str = "") -> Call:
        return Call(
            f"{function} {root}", f"select atm.{function}(%s, %s{more})", (epoch, stage[root])
        )

    def by_operator(function: str, target: str) -> Call:
        query = f"select atm.{function}(%s, reason => 'because', dry_run => false)::text"
        return Call(f"{function} {target}", query, (stage[target],))

    def report(pool: str) -> Call:
        changes = {
            stage["first vdsm"]: FINISHED,
            stage["last vdsm"]: FINISHED,
            stage["stray"]: dice.choice([FINISHED, status()]),
            "answer": dice.choice([FINISHED, status()]),
        }
        listed = {**stage["vdsm"], **dict(dice.sample(sorted(changes.items()), 3))}
        if "answer" in listed:
            listed[ANSWER] = listed.pop("answer")
        may_be_gone = ["claimed vdsm", "ended vdsm", "revert vdsm", "wide vdsm", "first vdsm"]
        for gone in dice.sample(may_be_gone, 1):
            if dice.random() < 0.3:
                listed.pop(stage[gone], None)
        if pool == "second":
            here = (stage["last vdsm"], stage["wide second vdsm"])
            listed = {k: v for k, v in listed.items() if k in here}
        else:
            listed.pop(stage["wide second vdsm"], None)
        return Call(
            f"report {pool}",
            "select task_id::text, vdsm_task_id::text, action from atm.report_poll(%s,%s,%s,%s,%s)"
            " order by 1, 2",
            (
                stage["tokens"][stage[pool]],
                stage[pool],
                now,
                Jsonb({"host": "h", "spm_id": 1, "lver": 1}),
                Jsonb(listed),
            ),
        )

    def plan() -> Call:
        wanted = dice.choice(
            [entity("VM", 1), entity("VM", 2, "exclusive"), entity("VM", 9, "exclusive")]
        )
        given = document(stage[dice.choice(["pool", "pool", "spare"])], 1, wanted)
        given["command_id"], given["tasks"][0]["task_id"] = (
            str(uuid.UUID(int=dice.getrandbits(128), version=4)) for _ in range(2)
        )
        query = "select task_id::text, state from atm.plan_command(%s, %s)"
        return Call(f"plan {wanted['type']} {wanted['access']}", query, (epoch, Jsonb(given)))

    def add() -> Call:
        given = document(stage[dice.choice(["pool", "spare"])], 1)["tasks"]
        given[0]["task_id"] = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        given[0]["entities"] = [dice.choice([entity("VM", 9), entity("VM", 9, "exclusive")])]
        query = "select task_id::text, state from atm.add_tasks(%s, %s, %s)"
        return Call("add", query, (epoch, stage["open"], Jsonb({"tasks": given})))

    def bind(task: str) -> Call:
        query = "select task_id::text, state from atm.bind_task(%s, %s, %s, %s::uuid[])"
        return Call(f"bind {task}", query, (epoch, stage[task], ANSWER, [stage["planned"]]))

    def actions(pool: str, **done: str) -> Call:
        given = [{"vdsm_task_id": stage[k], "action": v, "ok": True} for k, v in done.items()]
        query = "select atm.report_actions(%s, %s, %s)"
        args = (stage["tokens"][stage[pool]], stage[pool], Jsonb(given))
        return Call(f"report_actions {pool}", query, args)

    def on_pool(function: str, pool: str) -> Call:
        # Above READ COMMITTED the number of tasks that a drain tells is that of its snapshot.
        query = f"select atm.{function}(%s, reason => 'because', dry_run => false) is not null"
        return Call(f"{function} {pool}", query, (stage[pool],))

    def finish(result: str, disposition: str = "clear") -> Call:
        query = "select atm.finish_end_action(%s, %s, '1 day', %s)"
        return Call(f"finish {result} {disposition}", query, (stage["token"], result, disposition))

    return {
        "plan": plan,
        "add": add,
        "seal": lambda: on_root("seal_command", "open"),
        "abort": lambda: on_root("abort_command", dice.choice(["open", "half", "both"]), ", 'why'"),
        "submit": lambda: Call(
            "submit",
            "select task_id::text, state from atm.submit_tasks(%s, %s::uuid[])",
            (epoch, [stage[dice.choice(["planned", "open task"])]]),
        ),
        "bind": lambda: bind(dice.choice(["submitting", "doubtful"])),
        "fail": lambda: on_task("fail_task", dice.choice(["submitting", "doubtful"])),
        "doubt": lambda: on_task("doubt_task", "submitting"),
        "start": lambda: Call("start", "select atm.start_engine('engine') > 0", ()),
        "claim": lambda: Call(
            "claim",
            "select root_command_id::text, outcome, attempt"
            " from atm.claim_end_actions(%s, 100, '1 hour') order by 1",
            (epoch,),
        ),
        "finish": lambda: finish(
            dice.choice(["done", "done", "done", "retry", "postpone"]),
            dice.choice(["clear", "revert"]),
        ),
        "extend": lambda: Call(
            "extend", "select atm.extend_end_action(%s, '1 hour')", (stage["token"],)
        ),
        "report": lambda: report("pool"),
        "report second": lambda: report("second"),
        "actions": lambda: actions(
            "pool", **{"ended vdsm": "clear", "revert vdsm": "revert", "wide vdsm": "revert"}
        ),
        "actions second": lambda: actions("second", **{"wide second vdsm": "revert"}),
        "remove": lambda: on_pool("remove_pool", dice.choice(["spare", "spare", "second"])),
        "drain": lambda: on_pool("drain_pool", dice.choice(["spare", "pool"])),
        "set": lambda: Call(
            "set_pool",
            "select atm.set_pool(%s, 'set', '[{\"address\": \"h\"}]')",
            (stage["spare"],),
        ),
        "cancel": lambda: by_operator(
            "cancel_command", dice.choice(["both", "half", "open", "end failed"])
        ),
        "retry": lambda: by_operator("retry_end_action", "end failed"),
        "resolve": lambda: Call(
            "resolve",
            "select atm.resolve_task(%s, 'lost', 'because', false)",
            (stage[dice.choice(["first", "last", "doubtful"])],),
        ),
        "resolve orphan": lambda: by_operator("resolve_orphan", "stray"),
        "acquire": lambda: Call(
            "acquire",
            # Which pools are handed out depends on those that are locked at that moment; all of
            # them are its own already.
            "select count(*) <= 2 from atm.acquire_pools('poller', 2, '1 hour')",
            (),
        ),
    }


# VDSM's answer to the create of the task that is submitting, or of the one in doubt.
ANSWER = "00000000-0000-4000-8000-00000000a115"
