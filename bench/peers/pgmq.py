"""pgmq: a message per task, deleted in the transaction that counts it; the last one sends "end".

VDSM's id is stored in a transaction of its own before, as everywhere. `PgmqUnbound` leaves that
out, so a crash loses it and the task is started again.
"""

import psycopg
from pgmq import PGMQueue, install_pgmq_from_sql
from psycopg_pool import ConnectionPool

from bench import join

QUEUE = "tasks"


def setup(dsn: str) -> None:
    """pgmq's own SQL-only installation: its extension is not needed."""
    with psycopg.connect(dsn) as connection:
        install_pgmq_from_sql(conn=connection)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgmq.create(%s)", [QUEUE])
    join.create(dsn)


class Pgmq(join.ThreadSubject):
    """One connection per submitter, as many workers."""

    binds = True

    def begin(self, submitters: int) -> None:
        """See `ThreadSubject`."""
        # Every call below names its connection; the pool is what the client insists on.
        pool: ConnectionPool = ConnectionPool(self.dsn, min_size=0, max_size=1, open=False)
        self._queue = PGMQueue(pool=pool, init_extension=False)
        for _ in range(submitters):
            self.threads.start(self._submit)
        for _ in range(max(2, submitters)):
            self.threads.start(self._work)

    def _submit(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.threads.stopping:
                if self.places.acquire(timeout=0.1):
                    with connection.transaction():
                        root = join.plan(connection)
                        self._queue.send_batch(QUEUE, join.jobs(root), conn=connection)

    def _work(self) -> None:
        queue = self._queue
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.threads.stopping:
                messages = queue.read_with_poll(
                    QUEUE, vt=30, qty=10, max_poll_seconds=1, poll_interval_ms=20, conn=connection
                )
                for message in messages:
                    root = message.message["root"]
                    last = "number" not in message.message
                    if self.binds and not last:
                        join.bind(connection, root)
                    with connection.transaction():
                        if last:
                            join.end(connection, root)
                        elif join.task_done(connection, root):
                            queue.send(QUEUE, {"root": root}, conn=connection)
                        queue.delete(QUEUE, message.msg_id, conn=connection)
                    if last:
                        self.ended()


class PgmqUnbound(Pgmq):
    """The same without VDSM's ids."""

    binds = False
