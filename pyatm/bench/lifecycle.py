"""The lifecycle of commands on pyatm: submitters, one poller, one runner of endActions."""

import itertools
import json
import threading
import time
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from pyatm.bench.floor import PARAMETERS
from pyatm.bench.measure import Connection, Counter
from pyatm.bench.threads import Threads

FINISHED: Final = json.dumps(
    {"taskState": "finished", "taskResult": "success", "code": 0, "message": "ok"}
)
OPEN: Final = 128
"""Commands that an engine lets stand open before its submitters wait."""
PAUSE: Final = 0.02
"""Seconds between two polls; the poller's own shortest interval is much longer."""
IDLE: Final = 0.5
"""Seconds after which the runner looks without having been notified."""
ACQUIRE_INTERVAL: Final = 10.0
"""Seconds between two extensions of the pool's lease."""
PLAN = "SELECT task_id, state FROM atm.plan_command(epoch => %(epoch)s, plan => %(plan)s)"
BIND = (
    "SELECT state FROM atm.bind_task(epoch => %(epoch)s, task_id => %(task)s,"
    " vdsm_task_id => %(vdsm)s, submit_next => %(next)s)"
)
REPORT = (
    "SELECT vdsm_task_id, action FROM atm.report_poll(token => %(token)s, storage_pool_id =>"
    " %(pool)s, poll_started_at => %(started)s, spm => %(spm)s, statuses => %(statuses)s::jsonb)"
)
ACTIONS = (
    "SELECT atm.report_actions(token => %(token)s, storage_pool_id => %(pool)s,"
    " actions => %(actions)s)"
)
ACQUIRE = "SELECT storage_pool_id, token FROM atm.acquire_pools(%(poller)s, 1000, '1 hour')"
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

    A submitter plans a command, binds its tasks one by one and goes on to the next command as long
    as not more than `OPEN` commands are open. One connection polls: it reports, and tells
    the database what has been cleared. Another one listens, claims and finishes endActions. A
    command has ended when its last task has been cleared and its rows have gone to the history.

    Args:
        dsn: a migrated database.
        engine_name: this run's engine, pools and poller.
        pools: storage pools, one after the other used by the commands and polled.
    """

    def __init__(self, dsn: str, engine_name: str = "bench", pools: int = 1) -> None:
        self._dsn = dsn
        self.pools = [uuid4() for _ in range(pools)]
        self.pool = self.pools[0]
        self.name = engine_name
        self.counter = Counter()
        with psycopg.connect(dsn, autocommit=True) as connection:
            started = connection.execute(
                "SELECT atm.start_engine(engine_name => %s)", [engine_name]
            ).fetchone()
            self.epoch = int(started[0]) if started else 0
            for pool in self.pools:
                connection.execute(
                    "SELECT atm.set_pool(%s, %s, %s)",
                    [pool, f"{engine_name} {pool}", Jsonb([{"address": "host1"}])],
                )
            self.tokens = self._acquire(connection)
        self.listings: dict[UUID, dict[str, str]] = {pool: {} for pool in self.pools}
        self._turn = itertools.cycle(self.pools)
        self._binding: dict[int, UUID] = {}
        self._threads = Threads()
        self._places = threading.Semaphore()

    def start(self, submitters: int) -> None:
        """See `Subject`."""
        self._threads = Threads()
        self._places = threading.Semaphore(OPEN)
        for work in [self._poller, self._runner, *[self._submitter] * submitters]:
            self._threads.start(work)

    def stop(self) -> None:
        """See `Subject`; what is still open is brought to its end first."""
        self._threads.stop()
        self.drain()

    def failed(self) -> bool:
        """See `Subject`."""
        return self._threads.failed()

    def drain(self) -> None:
        """End all open commands."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while any(self.listings.values()):
                for pool in self.pools:
                    self.poll(connection, pool)
                self.end(connection)

    def submit(self, connection: Connection) -> None:
        """Plan one command and bind its tasks one at a time."""
        pool = next(self._turn)
        document = Jsonb(plan(pool))
        rows = self.counter.call(connection, PLAN, {"epoch": self.epoch, "plan": document})
        tasks = [row[0] for row in rows]
        me = threading.get_ident()
        for number, task in enumerate(tasks):
            vdsm = uuid4()
            self._binding[me] = vdsm
            following = tasks[number + 1 : number + 2]
            bound = {"epoch": self.epoch, "task": task, "vdsm": vdsm, "next": following}
            self.counter.call(connection, BIND, bound)
            self.listings[pool][str(vdsm)] = FINISHED
            del self._binding[me]

    def poll(self, connection: Connection, pool: UUID | None = None) -> tuple[int, float]:
        """One poll: report, clear.

        Args:
            connection: the poller's.
            pool: None: the first one.

        Returns:
            The number of cleared tasks, and the monotonic moment when the report had committed.
        """
        pool = pool or self.pool
        call, listing = self.counter.call, self.listings[pool]
        started = call(connection, "SELECT clock_timestamp()", {})[0][0]
        # A bind committed before this moment must stand in the listing, as it would at VDSM.
        unlisted = set(self._binding.copy().values())
        while unlisted & set(self._binding.copy().values()):
            time.sleep(0.0005)
        # The real poller passes on the text that VDSM sent, so making it costs little here too.
        listed = listing.copy().items()
        statuses = "{" + ",".join(f'"{vdsm}":{status}' for vdsm, status in listed) + "}"
        arguments = {
            "token": self.tokens[pool],
            "pool": pool,
            "started": started,
            "spm": Jsonb({"host": "host1", "spm_id": 1, "lver": 1}),
            "statuses": statuses,
        }
        rows = call(connection, REPORT, arguments)
        reported = time.monotonic()
        clears = [vdsm for vdsm, action in rows if action == "clear"]
        if clears:
            actions = [
                {"vdsm_task_id": str(vdsm), "action": "clear", "ok": True} for vdsm in clears
            ]
            told = {"token": self.tokens[pool], "pool": pool, "actions": Jsonb(actions)}
            for vdsm in clears:
                del listing[str(vdsm)]
            call(connection, ACTIONS, told)
        return len(clears), reported

    def end(self, connection: Connection) -> int:
        """Claim what is ready and finish it; the number of commands."""
        tokens = [row[0] for row in self.counter.call(connection, CLAIM, {"epoch": self.epoch})]
        if tokens:
            self.counter.call(connection, FINISH, {"tokens": tokens})
        return len(tokens)

    def _submitter(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._threads.stopping:
                if self._places.acquire(timeout=0.1):
                    self.submit(connection)

    def _poller(self) -> None:
        cleared = 0
        extended = time.monotonic()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._threads.stopping:
                self._threads.wait(PAUSE)
                count = sum(self.poll(connection, pool)[0] for pool in self.pools)
                ended, cleared = divmod(cleared + count, 4)
                self.counter.ended(ended)
                for _ in range(ended):
                    self._places.release()
                if time.monotonic() - extended > ACQUIRE_INTERVAL:
                    self.tokens = self._acquire(connection)
                    extended = time.monotonic()

    def _runner(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("LISTEN atm_ready")
            while not self._threads.stopping:
                if self.end(connection) == 0:
                    for _hint in connection.notifies(timeout=IDLE, stop_after=1):
                        pass

    def _acquire(self, connection: Connection) -> dict[UUID, int]:
        rows = self.counter.call(connection, ACQUIRE, {"poller": self.name})
        return {pool: int(token) for pool, token in rows}
