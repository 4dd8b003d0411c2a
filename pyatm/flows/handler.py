"""The endAction handler that serves all flows."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from pyatm.engine import EndAction, Engine, Finish
from pyatm.engine.client import Connection
from pyatm.flows.flow import Ending
from pyatm.flows.hosts import Hosts
from pyatm.flows.inventory import Inventory

COMPENSATION_PAUSE: Final = 5.0
"""Seconds until `can_compensate` is asked again; waiting uses up no attempts."""


class FlowHandler:
    """The endActions of all flows, for `EndActionRunner`.

    Args:
        flows: by action type.
        hosts: VDSM, for the remote calls of endActions.
        pause: seconds until `can_compensate` is asked again.
    """

    def __init__(
        self,
        engine: Engine,
        flows: Mapping[str, Ending],
        hosts: Hosts,
        pause: float = COMPENSATION_PAUSE,
    ) -> None:
        self._engine, self._flows, self._hosts = engine, flows, hosts
        self._pause = timedelta(seconds=pause)

    async def prepare(self, end_action: EndAction) -> Any:
        """See `pyatm.engine.runner.Handler`."""
        if end_action.succeeded:
            return await self._flow(end_action).call_hosts(end_action, self._hosts)
        return None

    async def apply(self, connection: Connection, end_action: EndAction, prepared: Any) -> Finish:
        """See `pyatm.engine.runner.Handler`."""
        flow, inventory = self._flow(end_action), Inventory(connection, self._engine.name)
        if end_action.succeeded:
            finish = await flow.succeed(inventory, end_action, prepared)
        else:
            for entity in flow.touched(end_action):
                possible = await self._engine.can_compensate(
                    entity.type, entity.id, connection=connection
                )
                if not possible:
                    text = f"VDSM may still work on {entity.type} {entity.id}"
                    return Finish("postpone", self._pause, message=text)
            finish = await flow.fail(inventory, end_action)
        await inventory.note_effect(end_action.root_command_id, end_action.outcome)
        return finish

    def _flow(self, end_action: EndAction) -> Ending:
        flow = self._flows.get(end_action.action_type)
        if flow is None:
            raise LookupError(f"no flow has the action type {end_action.action_type!r}")
        return flow
