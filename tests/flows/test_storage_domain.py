"""A storage domain is not deactivated under a flow, and no flow begins on an inactive one."""

import asyncio
from uuid import UUID

import psycopg
import pytest

from pyatm.engine import Engine, Entity, EntityBusy
from pyatm.flows.storage_domain import plan_deactivation
from tests.flows.agreement import settle_and_judge
from tests.flows.kills import release
from tests.flows.stage import DOMAIN, Stage


def deactivate(stage: Stage) -> int:
    """Plan it as an engine of its own; returns how many commands the domain has then."""

    async def plan() -> int:
        connection = await psycopg.AsyncConnection.connect(stage.engine_dsn, autocommit=True)
        async with connection:
            engine = await Engine.start(connection, "admin")
            await plan_deactivation(engine, UUID(DOMAIN))
            busy = await engine.busy_entities([Entity("Storage", UUID(DOMAIN))])
            return int(busy[0]["commands"])

    return asyncio.run(plan())


@pytest.mark.parametrize("flow", ["remove-vm", "create-template"])
def test_a_domain_on_which_tasks_run_cannot_be_deactivated(stage: Stage, flow: str) -> None:
    stage.control("default_job", None)
    with stage.begin(flow) as engine:
        command = engine.until("planned")["command_id"]
        engine.until("submitted")
        with pytest.raises(EntityBusy) as refused:
            deactivate(stage)
        assert command in str(refused.value)
        assert {str(holder.entity_id) for holder in refused.value.holders} == {DOMAIN}
        release(stage)
        assert engine.finish() == 0
    settle_and_judge(stage)
    assert deactivate(stage) == 1


def test_no_flow_begins_on_a_domain_that_is_or_becomes_inactive(stage: Stage) -> None:
    vm_id = stage.add_vm(1)
    flow = ("--flow", "remove-vm", "--vm", vm_id)
    deactivate(stage)
    with stage.engine(*flow) as early:
        assert early.finish() == 4
        assert "DeactivateStorageDomain" in early.all("error")[0]["message"]
    with stage.engine("--engine", "admin") as admin:
        assert admin.finish() == 0
    assert stage.one("select state from pyatm_inventory.storage_domain") == "Inactive"
    with stage.engine(*flow) as late:
        assert late.finish() == 4
        assert f"storage domain {DOMAIN} is Inactive" in late.all("error")[0]["message"]
    settle_and_judge(stage)
