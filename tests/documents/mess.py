"""A prepared mess: what two engines, three storage pools and one bad night have left behind.

Everything goes through the functions of schema `atm`, as the role that would call them; ids are
fixed, so that what documents print stays the same. Between the steps time passes by setting all
stored times back. VDSM is a dict per pool.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

Row = dict[str, Any]

DEFAULT: Final = "5849b030-626e-47cb-ad90-3ce782d831b3"
ARCHIVE: Final = "5849b030-626e-47cb-ad90-3ce782d831b4"
LAB: Final = "5849b030-626e-47cb-ad90-3ce782d831b5"
POOLS: Final = {
    DEFAULT: ("Default", "host1.example.com"),
    ARCHIVE: ("Archive", "host3.example.com"),
    LAB: ("Lab", "host5.example.com"),
}
POLLERS: Final = {"poller-a": (2, "1 hour"), "poller-b": (1, "30 s")}
"""How many pools each polls, the first two and the third, and its lease."""
RUNNING: Final = {
    "taskState": "running",
    "taskResult": "",
    "code": 0,
    "message": "running job 1 of 1",
}


def finished(result: str = "success", code: int = 0, message: str = "") -> Row:
    """What VDSM says of a task that is over."""
    said = message or "1 jobs completed successfully"
    return {"taskState": "finished", "taskResult": result, "code": code, "message": said}


def make_a_mess(dsn: str) -> None:
    """Fill a migrated database; needs a superuser."""
    with Site(dsn) as site:
        _last_night(site)
        _this_morning(site)
        _now(site)


class Ids:
    """The ids of the n-th command, so that a document can name them."""

    def __init__(self, n: int) -> None:
        self.command = f"c0000000-0000-4000-8000-{n:012d}"
        self.vm = f"e0000000-0000-4000-8000-{n:012d}"
        self._n = n

    def child(self, k: int) -> str:
        return f"cc000000-0000-4000-8000-{self._n * 100 + k:012d}"

    def task(self, k: int) -> str:
        return f"a0000000-0000-4000-8000-{self._n * 100 + k:012d}"

    def disk(self, k: int) -> str:
        return f"d0000000-0000-4000-8000-{self._n * 100 + k:012d}"

    def vdsm(self, k: int) -> str:
        return f"3e1a0000-0000-4000-8000-{self._n * 100 + k:012d}"


class Site:
    """The database with an engine's, a poller's and an operator's connection."""

    def __init__(self, dsn: str) -> None:
        self._opened = ExitStack()
        self._owner = self._connect(dsn, None, "the tests")
        self._owner.execute((Path(__file__).parent / "let_time_pass.sql").read_bytes())
        self._engine = self._connect(dsn, "atm_engine", "engine1")
        self._poller = self._connect(dsn, "atm_poller", "pyatm poller")
        self._operator = self._connect(dsn, "atm_operator", "psql")
        self.vdsm: dict[str, dict[str, Row]] = {pool: {} for pool in POOLS}
        self._tokens: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        for pool, (name, host) in POOLS.items():
            hosts = Jsonb([{"address": host, "port": 54321}])
            self._rows(self._engine, "select atm.set_pool(%s, %s, %s)", pool, name, hosts)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def pass_time(self, by: str) -> None:
        """Let time pass."""
        self._rows(self._owner, "select pg_temp.let_time_pass(%s::interval)", by)

    def start_engine(self, name: str) -> None:
        self._rows(self._engine, "select set_config('application_name', %s, false)", name)
        (row,) = self._rows(self._engine, "select atm.start_engine(%s) as epoch", name)
        self._epochs[name] = row["epoch"]

    def lease(self, *pollers: str) -> None:
        """The pollers take their pools, or keep them."""
        for poller in pollers:
            call = "select * from atm.acquire_pools(%s, %s, %s::interval)"
            for row in self._rows(self._poller, call, poller, *POLLERS[poller]):
                self._tokens[str(row["storage_pool_id"])] = row["token"]

    def plan(
        self,
        n: int,
        action_type: str,
        child_type: str,
        task_type: str,
        tasks: int = 1,
        *,
        pool: str = DEFAULT,
        engine: str = "engine1",
        access: str = "exclusive",
        disk: str | None = None,
    ) -> Ids:
        """Plan a command: a child with a disk and a task each."""
        ids = Ids(n)
        children = [
            {
                "command_id": ids.child(k),
                "action_type": child_type,
                "entities": [
                    {"type": "Disk", "id": disk or ids.disk(k), "access": access},
                    {"type": "Storage", "id": f"50000000{pool[8:]}"},
                ],
                "tasks": [
                    {"task_id": ids.task(k), "task_type": task_type, "storage_pool_id": pool}
                ],
            }
            for k in range(1, tasks + 1)
        ]
        document = {
            "command_id": ids.command,
            "action_type": action_type,
            "entities": [{"type": "VM", "id": ids.vm, "access": access}],
            "children": children,
        }
        self.engine("plan_command", engine, Jsonb(document))
        return ids

    def engine(self, function: str, name: str, *arguments: object) -> list[Row]:
        """Call an engine function with the engine's epoch."""
        call = sql.SQL("select * from atm.{}({})").format(
            sql.Identifier(function), sql.SQL(", ").join([sql.Placeholder()] * (1 + len(arguments)))
        )
        with self._engine.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(call, [self._epochs[name], *arguments]).fetchall()

    def announce(self, ids: Ids, *numbers: int, engine: str = "engine1") -> None:
        self.engine("submit_tasks", engine, [ids.task(k) for k in numbers])

    def send(self, ids: Ids, *numbers: int, pool: str = DEFAULT, engine: str = "engine1") -> None:
        """Announce and bind tasks; VDSM runs them."""
        for k in numbers:
            self.announce(ids, k, engine=engine)
            self.engine("bind_task", engine, ids.task(k), ids.vdsm(k))
            self.vdsm[pool][ids.vdsm(k)] = RUNNING

    def poll(self, pool: str = DEFAULT, *, act: bool = True) -> None:
        """Report what VDSM lists, and do what is to be done at VDSM."""
        arguments = [self._tokens[pool], pool]
        (began,) = self._rows(self._poller, "select clock_timestamp() as at")
        spm = Jsonb({"host": POOLS[pool][1], "spm_id": 1, "lver": 7})
        chores = self._rows(
            self._poller,
            "select vdsm_task_id::text, action from atm.report_poll(%s, %s, %s, %s, %s)",
            *arguments,
            began["at"],
            spm,
            Jsonb(self.vdsm[pool]),
        )
        if act:
            for chore in chores:
                self._at_vdsm(pool, chore["vdsm_task_id"], chore["action"])
            answers = Jsonb([{**chore, "ok": True} for chore in chores])
            self._rows(self._poller, "select atm.report_actions(%s, %s, %s)", *arguments, answers)

    def hang(self, pool: str) -> None:
        """A poll that could not list the tasks."""
        self._rows(
            self._poller,
            "select * from atm.report_poll(%s, %s, clock_timestamp(), '{\"lver\": 7}', null)",
            self._tokens[pool],
            pool,
        )

    def end_actions(self, engine: str = "engine1", result: str = "done", message: str = "") -> None:
        for claim in self.engine("claim_end_actions", engine, 100, "1 hour"):
            self._rows(
                self._engine,
                "select atm.finish_end_action(%s, %s, message => %s)",
                claim["token"],
                result,
                message or None,
            )

    def finish(self, ids: Ids, *said: Row, pool: str = DEFAULT, engine: str = "engine1") -> None:
        """VDSM ends the command's tasks; the command ends and is cleared."""
        self.vdsm[pool] |= {ids.vdsm(k): status for k, status in enumerate(said, 1)}
        self.poll(pool)
        self.end_actions(engine)
        self.poll(pool)

    def operator(self, query: str, *arguments: object) -> None:
        self._rows(self._operator, query, *arguments)

    def _at_vdsm(self, pool: str, vdsm_task_id: str, action: str) -> None:
        if action == "stop":
            aborted = f"value={vdsm_task_id} abortedcode=411"
            self.vdsm[pool][vdsm_task_id] = finished("cleanSuccess", 411, aborted)
        else:
            del self.vdsm[pool][vdsm_task_id]

    def _rows(
        self, connection: psycopg.Connection[Any], query: str, *arguments: object
    ) -> list[Row]:
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(query.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    def _connect(self, dsn: str, role: str | None, application: str) -> psycopg.Connection[Any]:
        made = psycopg.connect(dsn, autocommit=True, application_name=application)
        self._opened.callback(made.close)
        if role is not None:
            made.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
        return made


def _last_night(site: Site) -> None:
    site.start_engine("engine1")
    site.start_engine("engine2")
    site.lease(*POLLERS)
    for pool in POOLS:
        site.poll(pool)

    removed = site.plan(1, "RemoveVm", "RemoveImage", "deleteImage", 2)
    site.send(removed, 1, 2)
    site.pass_time("80 s")
    site.finish(removed, finished(), finished())
    site.pass_time("42 min")

    template = site.plan(2, "AddVmTemplate", "CreateImageTemplate", "copyImage", 2)
    site.send(template, 1, 2)
    site.pass_time("11 min")
    full = "value=low level Image copy failed: ('No space left on device',) abortedcode=261"
    site.finish(template, finished(), finished("cleanSuccess", 261, full))
    site.pass_time("25 min")

    snapshot = site.plan(3, "CreateSnapshotForVm", "CreateSnapshot", "createVolume", 1)
    site.announce(snapshot, 1)
    refusal = "code 358: Storage domain does not exist"
    site.engine("fail_task", "engine1", snapshot.task(1), refusal)
    site.end_actions()
    site.pass_time("65 min")

    cancelled = site.plan(4, "RemoveVm", "RemoveImage", "deleteImage", 3)
    site.send(cancelled, 1)
    site.pass_time("4 min")
    site.poll()
    site.operator(
        "select * from atm.cancel_command(%s, 'wrong VM, ticket 4711', dry_run => false)",
        cancelled.command,
    )
    site.poll()
    site.pass_time("5 s")
    site.poll()
    site.end_actions()
    site.poll()
    site.pass_time("35 min")

    crashed = site.plan(5, "RemoveVm", "RemoveImage", "deleteImage", 3)
    site.send(crashed, 1, 2)
    site.pass_time("20 s")
    site.start_engine("engine1")
    site.pass_time("70 s")
    site.finish(crashed, finished(), finished())
    site.pass_time("2 hours")


def _this_morning(site: Site) -> None:
    site.operator(
        "select atm.set_setting('absence_time', '45 s', 'the array is slow after a failover')"
    )
    # A VDSM task that nobody here has asked for.
    site.vdsm[DEFAULT]["3e1a0000-0000-4000-8000-000000009900"] = finished()
    site.lease(*POLLERS)
    for pool in POOLS:
        site.poll(pool)
    site.pass_time("55 min")

    # endAction gives up.
    failed = site.plan(6, "RemoveVm", "RemoveImage", "deleteImage", 1)
    site.send(failed, 1)
    site.vdsm[DEFAULT][failed.vdsm(1)] = finished()
    site.lease("poller-a")
    site.poll()
    site.end_actions(result="give_up", message=f"no row for disk {failed.disk(1)}")
    site.pass_time("30 min")

    # The poller of Lab dies, and with it nobody follows this one.
    site.lease(*POLLERS)
    left = site.plan(7, "AddVmTemplate", "CreateImageTemplate", "copyImage", 1, pool=LAB)
    site.send(left, 1, pool=LAB)
    site.poll(LAB)
    site.pass_time("20 min")

    # Two readers of one disk.
    for n, action in ((8, "ExportVm"), (9, "AddVmTemplate")):
        reader = site.plan(
            n, action, "CopyImage", "copyImage", 1, access="shared", disk=Ids(8).disk(1)
        )
        site.send(reader, 1)
    site.pass_time("15 min")

    # engine2 is killed while VDSM starts the task that it has asked for.
    site.lease("poller-a")
    lost = site.plan(10, "RemoveVm", "RemoveImage", "deleteImage", 1, engine="engine2")
    site.announce(lost, 1, engine="engine2")
    site.vdsm[DEFAULT][lost.vdsm(1)] = RUNNING
    site.poll()
    site.start_engine("engine2")
    site.pass_time("5 min")
    waiting = site.plan(11, "HibernateVm", "CreateVolume", "createVolume", 1, engine="engine2")
    site.send(waiting, 1, engine="engine2")
    site.vdsm[DEFAULT][waiting.vdsm(1)] = finished()
    site.poll()

    # The SPM of Archive hangs: one command has ended but is not cleared, one runs on.
    ended = site.plan(12, "RemoveVm", "RemoveImage", "deleteImage", 1, pool=ARCHIVE)
    site.send(ended, 1, pool=ARCHIVE)
    site.vdsm[ARCHIVE][ended.vdsm(1)] = finished()
    site.poll(ARCHIVE)
    site.end_actions()
    hung = site.plan(13, "AddVmTemplate", "CreateImageTemplate", "copyImage", 2, pool=ARCHIVE)
    site.send(hung, 1, 2, pool=ARCHIVE)
    site.pass_time("11 min")


def _now(site: Site) -> None:
    site.lease("poller-a")
    busy = site.plan(14, "RemoveVm", "RemoveImage", "deleteImage", 4)
    site.send(busy, 1, 2, 3)
    site.vdsm[DEFAULT][busy.vdsm(1)] = finished()
    site.poll(act=False)
    site.pass_time("40 s")
    doubtful = site.plan(15, "CreateSnapshotForVm", "CreateSnapshot", "createVolume", 1)
    site.announce(doubtful, 1)
    site.vdsm[DEFAULT][doubtful.vdsm(1)] = RUNNING
    site.poll(act=False)
    unanswered = "no answer from host1.example.com:54321 within 60 s"
    site.engine("doubt_task", "engine1", doubtful.task(1), unanswered)
    site.pass_time("50 s")
    site.poll(act=False)
    site.hang(ARCHIVE)
