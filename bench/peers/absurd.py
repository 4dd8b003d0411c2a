"""absurd: a parent task that waits for one event of each of its 4 child tasks."""

import time
from typing import Any
from uuid import uuid4

import absurdctl
import psycopg
from absurd_sdk import Absurd

from bench import join

ROOTS, TASKS = "roots", "tasks"
POLL_INTERVAL = 0.02
"""Seconds; the default of 0.25 would leave the workers idle most of the time."""
KEEP_SECONDS = 5
"""How long ended tasks and events stay: events must outlive the wait for them."""


def setup(dsn: str) -> None:
    """The schema that absurdctl brings with it, and two queues."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(absurdctl.BUNDLED_SCHEMA_SQL.encode())
        client = Absurd(connection)
        client.create_queue(ROOTS)
        client.create_queue(TASKS)
    join.create(dsn)


class AbsurdTasks(join.ThreadSubject):
    """Workers on both queues, each with a connection of its own; a thread that cleans up."""

    def begin(self, submitters: int) -> None:
        """See `ThreadSubject`."""
        self._clients: list[Absurd] = []
        for _ in range(submitters):
            self.threads.start(self._submit)
        for _ in range(max(2, submitters)):
            self.threads.start(self._tasks)
        for _ in range(max(1, submitters // 2)):
            self.threads.start(self._roots)
        self.threads.start(self._clean)

    def stop(self) -> None:
        """See `Subject`."""
        for client in self._clients:
            client.stop_worker()
        super().stop()

    def _submit(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            client = Absurd(connection, ROOTS)
            while not self.threads.stopping:
                if self.places.acquire(timeout=0.1):
                    with connection.transaction():
                        root = join.plan(connection)
                        client.spawn("root", {"root": str(root)}, queue=ROOTS)
                        for job in join.jobs(root):
                            client.spawn("task", job, queue=TASKS)

    def _tasks(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            client = Absurd(connection, TASKS)

            @client.register_task("task")
            def task(job: dict[str, Any], context: Any) -> None:
                # A step's result is stored: what VDSM has answered.
                vdsm = context.step("bind", lambda: str(uuid4()))
                client.emit_event(f"{job['root']}:{job['number']}", {"vdsm": vdsm}, ROOTS)

            self._run(client)

    def _roots(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            client = Absurd(connection, ROOTS)

            @client.register_task("root")
            def root(job: dict[str, Any], context: Any) -> None:
                for number in range(join.TASKS):
                    context.await_event(f"{job['root']}:{number}")
                join.end(connection, job["root"])
                self.ended()

            self._run(client)

    def _run(self, client: Absurd) -> None:
        self._clients.append(client)
        if not self.threads.stopping:
            client.start_worker(batch_size=10, poll_interval=POLL_INTERVAL)

    def _clean(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.threads.stopping:
                begin = time.monotonic()
                for queue in (ROOTS, TASKS):
                    arguments = [queue, KEEP_SECONDS]
                    connection.execute("SELECT absurd.cleanup_tasks(%s, %s)", arguments)
                    connection.execute("SELECT absurd.cleanup_events(%s, %s)", arguments)
                self.threads.wait(max(0.1, 0.5 - (time.monotonic() - begin)))
