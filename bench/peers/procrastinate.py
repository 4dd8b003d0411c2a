"""procrastinate: a job per task; the one that was the last defers "end" in its own transaction."""

import asyncio

from procrastinate import App, PsycopgConnector

from bench import join


def setup(dsn: str) -> None:
    """procrastinate's own schema."""

    async def apply() -> None:
        async with App(connector=PsycopgConnector(conninfo=dsn)).open_async() as app:
            await app.schema_manager.apply_schema_async()

    asyncio.run(apply())
    join.create(dsn)


class Procrastinate(join.AsyncSubject):
    """One worker, as many jobs at a time as there are submitters; jobs are deleted at their end."""

    async def main(self, submitters: int) -> None:
        """See `AsyncSubject`."""
        workers = max(2, submitters)
        size = 2 * workers + submitters + 2
        connector = PsycopgConnector(conninfo=self.dsn, min_size=size, max_size=size)
        app = App(connector=connector)

        @app.task(name="task")
        async def task(root: str, number: int, parameters: dict[str, object]) -> None:
            del number, parameters
            async with connector.pool.connection() as connection:
                await join.abind(connection, root)
                await connection.commit()
                if await join.atask_done(connection, root):
                    # Before the tasks of younger commands.
                    urgent = end.configure(connection=connection, priority=1)
                    await urgent.defer_async(root=root)

        @app.task(name="end")
        async def end(root: str) -> None:
            async with connector.pool.connection() as connection:
                await join.aend(connection, root)
            self.ended()

        async def submit() -> None:
            async with connector.pool.connection() as connection:
                root = await join.aplan(connection)
                deferrer = task.configure(connection=connection)
                await deferrer.batch_defer_async(*join.jobs(root))

        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(
                    concurrency=workers, delete_jobs="always", install_signal_handlers=False
                )
            )
            try:
                await asyncio.gather(*(self.submitter(submit) for _ in range(submitters)))
            finally:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)
