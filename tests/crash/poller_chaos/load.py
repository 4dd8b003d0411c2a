"""An engine without faults of its own: it plans, sends, binds, and ends what is ready."""

import asyncio
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from pyatm.vdsm import Address, CallError, ClientSettings, NotSent, Refused, Sending, VdsmClient
from tests.crash.evidence import Effect, Planned, PlannedTask
from tests.crash.poller_chaos.world import Site, World

DOMAIN: Final = str(uuid.uuid4())
AT_ONCE: Final = 12


@dataclass(slots=True)
class Load:
    """Commands of one engine.

    :param planned: what was planned, by root.
    :param effects: what was ended.
    :param sent: creates by what became of them: ``bound``, ``refused``, ``doubted``.
    """

    world: World
    chance: random.Random
    planned: dict[str, Planned] = field(default_factory=dict[str, Planned])
    effects: list[Effect] = field(default_factory=list[Effect])
    sent: dict[str, int] = field(default_factory=dict[str, int])
    epoch: int = 0

    async def run(self) -> None:
        """Until cancelled; a command that is under way is then sent to its end."""
        async with await self.world.connect() as connection:
            self.epoch = await _value(connection, "select atm.start_engine('chaos')")
            slots = asyncio.Semaphore(AT_ONCE)
            sending: set[asyncio.Task[None]] = set()
            try:
                while True:
                    await slots.acquire()
                    task = asyncio.create_task(self._command(connection))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                    task.add_done_callback(lambda _: slots.release())
                    await asyncio.sleep(self.chance.uniform(0.02, 0.4))
            finally:
                for result in await asyncio.gather(*sending, return_exceptions=True):
                    if isinstance(result, Exception):
                        raise result

    async def end_actions(self) -> None:
        """End what is ready, for ever; some of what has succeeded is reverted."""
        async with await self.world.connect() as connection:
            while True:
                await asyncio.sleep(0.2)
                cursor = await connection.execute(
                    b"select root_command_id::text, outcome::text, token"
                    b" from atm.claim_end_actions(%s, 50, '1 min')",
                    [self.epoch],
                )
                for root, outcome, token in await cursor.fetchall():
                    revert = outcome == "succeeded" and self.chance.random() < 0.15
                    at = await _value(
                        connection, "select extract(epoch from clock_timestamp())::float8"
                    )
                    await connection.execute(
                        b"select atm.finish_end_action(token => %s, disposition => %s)",
                        [token, "revert" if revert else "clear"],
                    )
                    self.effects.append(Effect(root, token, outcome, at))

    async def _command(self, connection: psycopg.AsyncConnection[Any]) -> None:
        site = self.chance.choice(self.world.sites)
        root = str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        tasks = [str(uuid.uuid4()) for _ in range(self.chance.randint(1, 4))]
        plan = {
            "command_id": root,
            "action_type": "RemoveVm",
            "tasks": [
                {"task_id": task, "task_type": "t", "storage_pool_id": site.pool, "submit": True}
                for task in tasks
            ],
        }
        await connection.execute(
            b"select from atm.plan_command(%s, %s)", [self.epoch, json.dumps(plan)]
        )
        self.planned[root] = Planned(
            root, "chaos", self.epoch, time.time(), tuple(PlannedTask(task) for task in tasks)
        )
        for task in tasks:
            statement, rest, result = await self._send(site, task)
            await connection.execute(statement, [self.epoch, task, rest])
            self.sent[result] = self.sent.get(result, 0) + 1

    async def _send(self, site: Site, task: str) -> tuple[bytes, str, str]:
        """What to tell the database: a call, its last argument, and what it amounts to."""
        host = site.spm
        sending = Sending(timeout=2.0, correlation_id=task)
        try:
            async with VdsmClient(
                Address(host.host, host.port), settings=ClientSettings(timeout=2.0)
            ) as client:
                made = await client.image.delete(
                    str(uuid.uuid4()), pool_id=site.pool, domain_id=DOMAIN, sending=sending
                )
        except (Refused, NotSent) as error:
            return b"select from atm.fail_task(%s, %s, %s)", str(error)[:200], "refused"
        except CallError as error:
            return b"select from atm.doubt_task(%s, %s, %s)", str(error)[:200], "doubted"
        return b"select from atm.bind_task(%s, %s, %s)", made, "bound"


async def _value(connection: psycopg.AsyncConnection[Any], query: str) -> Any:
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]
