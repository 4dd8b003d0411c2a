"""The lifecycle of commands on pyatm: submitters, one poller, one endAction runner."""

import threading
import time
from contextlib import ExitStack
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from pyatm.bench.floor import PARAMETERS
from pyatm.bench.measure import Connection, Counter, Meter, Sample

FINISHED: Final = {"taskState": "finished", "taskResult": "success", "code": 0, "message": "ok"}
RUNNING: Final = {"taskState": "running", "taskResult": "", "code": 0, "message": "running"}
WINDOW: Final = 16
"""Commands that one submitter lets stand open before it waits."""
PAUSE: Final = 0.02
"""Seconds between two polls."""
PLAN = "SELECT task_id, state FROM atm.plan_command(epoch => %(epoch)s, plan => %(plan)s)"
BIND = (
    "SELECT state FROM atm.bind_task(epoch => %(epoch)s, task_id => %(task)s,"
    " vdsm_task_id => %(vdsm)s, submit_next => %(next)s)"
)
REPORT = (
    "SELECT vdsm_task_id, action FROM atm.report_poll(token => %(token)s, storage_pool_id =>"
    " %(pool)s, poll_started_at => %(started)s, spm => %(spm)s, statuses => %(statuses)s)"
)
ACTIONS = (
    "SELECT atm.report_actions(token => %(token)s, storage_pool_id => %(pool)s,"
    " actions => %(actions)s)"
)
CLAIM = (
    "SELECT token FROM atm.claim_end_actions(epoch => %(epoch)s, max_commands => 1000,"
    " lease => '60 s')"
)
FINISH = "SELECT atm.finish_end_action(token => x) FROM unnest(%(tokens)s::bigint[]) x"


def plan(pool: UUID, *, children: int = 4) -> dict[str, Any]:
    """A root with one task and two entities in each child."""

    def child() -> dict[str, Any]:
        return {
            "command_id": str(uuid4()),
            "action_type": "RemoveImage",
            "entities": [
                {"type": "Disk", "id": str(uuid4()), "access": "exclusive"},
                {"type": "Image", "id": str(uuid4())},
            ],
            "tasks": [
                {
                    "task_id": str(uuid4()),
                    "task_type": "deleteImage",
                    "storage_pool_id": str(pool),
                    "parameters": PARAMETERS,
                }
            ],
        }

    made = [child() for _ in range(children)]
    made[0]["tasks"][0]["submit"] = True
    return {"command_id": str(uuid4()), "action_type": "RemoveVm", "children": made}


class Lifecycle:
    """Runs commands on one pool of one engine.

    Args:
        dsn: a migrated database.
        postmaster: process id.
        engine_name: this run's engine.
    """

    def __init__(self, dsn: str, postmaster: int, engine_name: str = "bench") -> None:
        self._dsn = dsn
        self._postmaster = postmaster
        self.pool = uuid4()
        with psycopg.connect(dsn, autocommit=True) as connection:
            started = connection.execute(
                "SELECT atm.start_engine(engine_name => %s)", [engine_name]
            ).fetchone()
            self.epoch = int(started[0]) if started else 0
            connection.execute(
                "SELECT atm.set_pool(%s, %s, %s)",
                [self.pool, engine_name, Jsonb([{"address": "host1"}])],
            )
            rows = connection.execute(
                "SELECT storage_pool_id, token FROM atm.acquire_pools(%s, 1000, '1 hour')",
                [engine_name],
            ).fetchall()
            self.token = next(int(token) for pool, token in rows if pool == self.pool)
        self.listing: dict[str, dict[str, Any]] = {}
        self._binding: dict[int, UUID] = {}

    def submit(self, connection: Connection, counter: Counter) -> None:
        """Plan one command and bind its tasks one at a time."""
        document = Jsonb(plan(self.pool))
        rows = counter.call(connection, PLAN, {"epoch": self.epoch, "plan": document})
        tasks = [row[0] for row in rows]
        me = threading.get_ident()
        for number, task in enumerate(tasks):
            vdsm = uuid4()
            self._binding[me] = vdsm
            following = tasks[number + 1 : number + 2]
            bound = {"epoch": self.epoch, "task": task, "vdsm": vdsm, "next": following}
            counter.call(connection, BIND, bound)
            self.listing[str(vdsm)] = FINISHED
            del self._binding[me]

    def poll(self, connection: Connection, counter: Counter) -> tuple[int, float]:
        """One poll: report, clear. Returns the cleared tasks and the moment of the report."""
        started = counter.call(connection, "SELECT clock_timestamp()", {})[0][0]
        # A bind committed before this moment must stand in the listing, as it would at VDSM.
        unlisted = set(self._binding.copy().values())
        while unlisted & set(self._binding.copy().values()):
            time.sleep(0.0002)
        arguments = {
            "token": self.token,
            "pool": self.pool,
            "started": started,
            "spm": Jsonb({"host": "host1", "spm_id": 1, "lver": 1}),
            "statuses": Jsonb(self.listing.copy()),
        }
        rows = counter.call(connection, REPORT, arguments)
        reported = time.monotonic()
        clears = [vdsm for vdsm, action in rows if action == "clear"]
        if clears:
            actions = [
                {"vdsm_task_id": str(vdsm), "action": "clear", "ok": True} for vdsm in clears
            ]
            told = {"token": self.token, "pool": self.pool, "actions": Jsonb(actions)}
            for vdsm in clears:
                del self.listing[str(vdsm)]
            counter.call(connection, ACTIONS, told)
        return len(clears), reported

    def end(self, connection: Connection, counter: Counter) -> int:
        """Claim what is ready and finish it; the number of commands."""
        tokens = [row[0] for row in counter.call(connection, CLAIM, {"epoch": self.epoch})]
        if tokens:
            counter.call(connection, FINISH, {"tokens": tokens})
        return len(tokens)

    def run(self, submitters: int, commands: int) -> Sample:
        """Submitters in a loop with a bounded number of open commands, until all have ended.

        Args:
            submitters: connections of the engine.
            commands: in all.
        """
        counter = Counter()
        share = commands // submitters
        wanted = share * submitters
        open_places = threading.Semaphore(WINDOW * submitters)
        failures: list[BaseException] = []
        stop = threading.Event()

        def submitter(connection: Connection) -> None:
            try:
                for _ in range(share):
                    while not open_places.acquire(timeout=1):
                        if stop.is_set():
                            return
                    self.submit(connection, counter)
            except BaseException as error:
                failures.append(error)
                stop.set()

        with ExitStack() as opened:
            made: list[Connection] = [
                opened.enter_context(psycopg.connect(self._dsn, autocommit=True))
                for _ in range(submitters + 2)
            ]
            control, hands, *ours = made
            meter = Meter(control, self._postmaster)
            threads = [threading.Thread(target=submitter, args=[one]) for one in ours]
            for thread in threads:
                thread.start()
            cleared = 0
            try:
                while cleared < wanted * 4 and not stop.is_set():
                    time.sleep(PAUSE)
                    count, _ = self.poll(hands, counter)
                    cleared += count
                    for _ in range(count // 4):
                        open_places.release()
                    self.end(hands, counter)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            if failures:
                raise failures[0]
            return meter.sample(wanted, counter, [])

    def idle_waits(self, rounds: int) -> list[float]:
        """Seconds from a committed report to the claim, one command at a time, woken by NOTIFY.

        Args:
            rounds: commands.
        """
        waits: list[float] = []
        counter = Counter()
        with (
            psycopg.connect(self._dsn, autocommit=True) as hands,
            psycopg.connect(self._dsn, autocommit=True) as engine,
        ):
            engine.execute("LISTEN atm_ready")
            for _ in range(rounds):
                self.submit(hands, counter)
                _, reported = self.poll(hands, counter)
                for _hint in engine.notifies(timeout=5, stop_after=1):
                    pass
                tokens = [row[0] for row in counter.call(engine, CLAIM, {"epoch": self.epoch})]
                waits.append(time.monotonic() - reported)
                counter.call(engine, FINISH, {"tokens": tokens})
                self.poll(hands, counter)
        return waits
