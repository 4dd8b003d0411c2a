"""Asks and attacks the database while everything else goes wrong."""

import asyncio
import json
import random
import time
import uuid
from collections import defaultdict
from typing import Any

import psycopg

from tests.crash.connection import Patient
from tests.crash.load import POOLS
from tests.crash.recording import Recorder

STALE = (
    "SELECT atm.submit_tasks(%(epoch)s, ARRAY[%(task)s]::uuid[])",
    "SELECT atm.bind_task(%(epoch)s, %(task)s, %(id)s)",
    "SELECT atm.fail_task(%(epoch)s, %(task)s, 'stale')",
    "SELECT atm.doubt_task(%(epoch)s, %(task)s, 'stale')",
    "SELECT atm.abort_command(%(epoch)s, %(root)s, 'stale', true)",
    "SELECT atm.seal_command(%(epoch)s, %(root)s)",
    "SELECT atm.claim_end_actions(%(epoch)s, 10, '1 s')",
    "SELECT atm.plan_command(%(epoch)s, %(plan)s)",
)


class Prober:
    """Notes when compensation is allowed, and tries stale epochs, tokens and leases.

    Args:
        patient: a connection of its own.
        recorder: told every answer.
        chance: chooses what to try.
    """

    def __init__(self, patient: Patient, recorder: Recorder, chance: random.Random) -> None:
        self._patient, self._recorder, self._chance = patient, recorder, chance
        self._leases = 0
        self._epochs: defaultdict[str, set[int]] = defaultdict(set)

    async def run(self) -> None:
        """Until cancelled; the database may be away."""
        deeds = (self._ask, self._ask, self._stale_epoch, self._stale_token, self._stale_lease)
        while True:
            try:
                await self._chance.choice(deeds)()
            except psycopg.OperationalError:
                await self._patient.close()
            await asyncio.sleep(0.2)

    async def _ask(self) -> None:
        held = await self._patient.try_rows(
            "SELECT DISTINCT entity_type, entity_id::text FROM atm.entities"
            " WHERE access = 'exclusive'"
        )
        for row in self._chance.sample(held, min(8, len(held))):
            began = time.time()
            answer = await self._patient.try_rows(
                "SELECT atm.can_compensate(%s, %s) AS yes", row["entity_type"], row["entity_id"]
            )
            if answer[0]["yes"]:
                entity = [row["entity_type"], row["entity_id"]]
                self._recorder.write("compensable", entity=entity, began=began)

    async def _stale_epoch(self) -> None:
        """As an incarnation that was replaced, on the tasks of its successor."""
        live = await self._patient.try_rows(
            "SELECT task_id::text, root_command_id::text, engine_name, epoch FROM atm.tasks"
            " JOIN atm.commands USING (command_id, root_command_id) WHERE atm.tasks.state <> 'done'"
        )
        for row in live:
            self._epochs[row["engine_name"]].add(row["epoch"])
        if not live:
            return
        row = self._chance.choice(live)
        older = sorted(self._epochs[row["engine_name"]])[:-1]
        if not older:
            return
        plan = {"command_id": str(uuid.uuid4()), "action_type": "Stale"}
        query = self._chance.choice(STALE)
        arguments = {
            "epoch": self._chance.choice(older),
            "task": row["task_id"],
            "root": row["root_command_id"],
            "id": str(uuid.uuid4()),
            "plan": json.dumps(plan),
        }
        await self._attack(query.partition("(")[0].rpartition(".")[2], query, arguments)

    async def _stale_token(self) -> None:
        used = await self._patient.try_rows(
            "SELECT token FROM chaos.effect ORDER BY effect_no DESC LIMIT 20"
        )
        if used:
            token = self._chance.choice(used)["token"]
            await self._attack(
                "finish_end_action", "SELECT atm.finish_end_action(%(token)s)", {"token": token}
            )

    async def _stale_lease(self) -> None:
        """As a poller that lost its pool, with a listing from which every task is missing."""
        self._leases += 1
        name = f"stale-{self._leases}"
        taken = await self._patient.try_rows(
            "SELECT storage_pool_id::text, token FROM atm.acquire_pools(%s, 1, '0.2 s')", name
        )
        # Nothing was free: a token that is never given does as well.
        pool, token = str(self._chance.choice(POOLS)), 0
        if taken:
            pool, token = taken[0]["storage_pool_id"], taken[0]["token"]
            await asyncio.sleep(1.5)
            holder = await self._patient.try_rows(
                "SELECT poller FROM atm.pools WHERE storage_pool_id = %s", pool
            )
            if holder[0]["poller"] in (name, None):
                return
        arguments = {"token": token, "pool": pool, "spm": json.dumps(SPM)}
        await self._attack(
            "report_poll",
            "SELECT atm.report_poll(%(token)s, %(pool)s, clock_timestamp(), %(spm)s, '{}')",
            arguments,
        )

    async def _attack(self, operation: str, query: str, arguments: dict[str, Any]) -> None:
        answer = "done"
        try:
            await self._patient.try_named(query, arguments)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            answer = error.sqlstate or "?"
        # What has ended meanwhile cannot be written either.
        if answer not in ("AT008", "AT102"):
            self._recorder.write("stale", operation=operation, answer=answer)


SPM = {"host": "nobody", "spm_id": 9, "lver": 1}
