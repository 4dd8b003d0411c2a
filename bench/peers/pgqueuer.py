"""pgqueuer: a job per task; the one that was the last enqueues "end" in its own transaction."""

import asyncio
import json
from typing import Any

import asyncpg
import psycopg
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from bench import join


def setup(dsn: str) -> None:
    """pgqueuer's own installation."""

    async def install() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await Queries.from_psycopg_connection(connection).install()

    asyncio.run(install())
    join.create(dsn)


class PgQueuer(join.AsyncSubject):
    """One worker with its default batch of 10."""

    async def main(self, submitters: int) -> None:
        """See `AsyncSubject`."""
        workers = max(2, submitters)
        queries: dict[int, Queries] = {}

        def of(connection: psycopg.AsyncConnection[Any]) -> Queries:
            if id(connection) not in queries:
                queries[id(connection)] = Queries.from_psycopg_connection(connection)
            return queries[id(connection)]

        async with (
            AsyncConnectionPool(
                self.dsn,
                min_size=workers,
                max_size=workers,
                kwargs={"autocommit": True},
                open=False,
            ) as pool,
        ):
            # asyncpg, as pgqueuer recommends: with psycopg, a worker that waits for a notification
            # holds up its own queries.
            listening = await asyncpg.connect(**_asyncpg(self.dsn))
            manager = QueueManager(Queries.from_asyncpg_connection(listening))

            @manager.entrypoint("task")
            async def task(job: Job) -> None:
                root = json.loads(job.payload or b"{}")["root"]
                async with pool.connection() as connection:
                    await join.abind(connection, root)
                    async with connection.transaction():
                        if await join.atask_done(connection, root):
                            payload = json.dumps({"root": root}).encode()
                            # Before the tasks of younger commands.
                            await of(connection).enqueue("end", payload, priority=1)

            @manager.entrypoint("end")
            async def end(job: Job) -> None:
                async with pool.connection() as connection:
                    await join.aend(connection, json.loads(job.payload or b"{}")["root"])
                self.ended()

            async def submitting() -> None:
                async with await psycopg.AsyncConnection.connect(
                    self.dsn, autocommit=True
                ) as connection:

                    async def submit() -> None:
                        async with connection.transaction():
                            root = await join.aplan(connection)
                            payloads = [json.dumps(job).encode() for job in join.jobs(root)]
                            await of(connection).enqueue(
                                ["task"] * join.TASKS, [*payloads], [0] * join.TASKS
                            )

                    await self.submitter(submit)

            # Bounded: else it takes every job at once, and the last ones wait for a connection.
            limit = max(20, 4 * workers)
            worker = asyncio.create_task(manager.run(max_concurrent_tasks=limit))
            submitting_all = asyncio.gather(*(submitting() for _ in range(submitters)))
            await asyncio.wait(
                {worker, asyncio.ensure_future(submitting_all)},
                return_when=asyncio.FIRST_COMPLETED,
            )
            manager.shutdown.set()
            await worker
            await submitting_all
            await listening.close()


def _asyncpg(dsn: str) -> dict[str, Any]:
    parts = conninfo_to_dict(dsn)
    names = {"host": "host", "port": "port", "user": "user", "dbname": "database"}
    return {theirs: parts[ours] for ours, theirs in names.items()}
