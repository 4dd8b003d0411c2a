"""What an engine written in Python uses: a typed client over the functions of schema `atm`.

    pool = AsyncConnectionPool(dsn, kwargs={"autocommit": True})
    engine = await Engine.start(pool, "engine-1")
    async with engine.transaction() as transaction:      # own rows and the plan in one commit
        planned = await engine.plan_command(plan, connection=transaction.connection)
    await Submission(engine, send).run(planned, transaction.announcement)
    await EndActionRunner(engine, handler, listen_dsn=dsn).run(stop)

`pyatm.engine.sync.SyncEngine` is the same client for threads.
"""

from pyatm.engine.client import Engine, Transaction
from pyatm.engine.errors import (
    BadCall,
    EngineError,
    EntityBusy,
    Holder,
    NotFound,
    StaleEpoch,
    StaleToken,
    StaleWrite,
    WrongState,
    WrongTaskState,
)
from pyatm.engine.model import (
    Announcement,
    CommandPlan,
    EndAction,
    EndedTask,
    Entity,
    PlannedTask,
    TaskPlan,
    TaskState,
)
from pyatm.engine.runner import EndActionRunner, Finish
from pyatm.engine.submission import Submission

__all__ = [
    "Announcement",
    "BadCall",
    "CommandPlan",
    "EndAction",
    "EndActionRunner",
    "EndedTask",
    "Engine",
    "EngineError",
    "Entity",
    "EntityBusy",
    "Finish",
    "Holder",
    "NotFound",
    "PlannedTask",
    "StaleEpoch",
    "StaleToken",
    "StaleWrite",
    "Submission",
    "TaskPlan",
    "TaskState",
    "Transaction",
    "WrongState",
    "WrongTaskState",
]
