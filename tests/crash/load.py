"""The commands of the load: small, mostly apart, sometimes after the same entity."""

import random
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pyatm.engine import CommandPlan, Entity, TaskPlan
from tests.crash.evidence import Access  # noqa: TC001 (a small file of types)

POOLS: Final = (
    UUID("5849b030-626e-47cb-ad90-3ce782d831b3"),
    UUID("0d4c1f5e-8f0b-4a39-9d0c-3d5c0a5c1b77"),
)
DOMAIN: Final = UUID("773adfc7-10d4-4e60-b700-3272ee1871f9")
METHODS: Final = {"deleteImage": "Image.delete", "createVolume": "Volume.create"}
HOT: Final = tuple(UUID(int=0xC0FFEE << 96 | 4 << 76 | 8 << 60 | n) for n in range(6))
"""Entities that many commands want."""
NO_VOLUME: Final = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Odds:
    """How often a command is special.

    Attributes:
        hot: it wants an entity that others want.
        two_pools: its tasks go to both pools.
        slow_end: its endAction takes longer than a third of its lease.
        failing_end: its endAction raises at the first attempt.
        gives_up: its endAction gives up at the first attempt: an operator has to act.
    """

    hot: float = 0.25
    two_pools: float = 0.1
    slow_end: float = 0.03
    failing_end: float = 0.04
    gives_up: float = 0.004


class Load:
    """Makes commands.

    Args:
        chance: decides everything about them, ids included.
    """

    def __init__(self, chance: random.Random, odds: Odds = Odds()) -> None:
        self._chance, self._odds = chance, odds

    def command(self) -> CommandPlan:
        """The next one: 1 to 4 tasks, each in a child command of its own disk."""
        chance, odds = self._chance, self._odds
        pools = [chance.choice(POOLS)]
        if chance.random() < odds.two_pools:
            pools = list(POOLS)
        kind = chance.choice(("deleteImage", "createVolume"))
        entities = [Entity("VM", self._id(), "exclusive")]
        if chance.random() < odds.hot:
            access: Access = "exclusive" if chance.random() < 0.5 else "shared"
            entities.append(Entity("VmTemplate", chance.choice(HOT), access))
        children = [
            self._child(kind, pools[number % len(pools)], number)
            for number in range(chance.randint(1, 4))
        ]
        parameters = {
            "slow_end": chance.random() < odds.slow_end,
            "failing_end": chance.random() < odds.failing_end,
            "gives_up": chance.random() < odds.gives_up,
        }
        return CommandPlan(
            "RemoveVm" if kind == "deleteImage" else "AddVm",
            parameters,
            tuple(entities),
            children=tuple(children),
            command_id=self._id(),
        )

    def _child(self, kind: str, pool: UUID, number: int) -> CommandPlan:
        disk = self._id()
        parameters = _delete(pool, disk) if kind == "deleteImage" else self._create(pool, disk)
        # Either the planning transaction announces the first task, or a call of its own does.
        announced = number == 0 and self._chance.random() < 0.5
        task = TaskPlan(kind, pool, parameters, submit=announced, task_id=self._id())
        return CommandPlan(
            "RemoveImage" if kind == "deleteImage" else "AddDisk",
            entities=(Entity("Disk", disk, "exclusive"), Entity("Storage", DOMAIN)),
            tasks=(task,),
            command_id=self._id(),
        )

    def _create(self, pool: UUID, disk: UUID) -> dict[str, Any]:
        return {
            "volumeID": str(self._id()),
            "storagepoolID": str(pool),
            "storagedomainID": str(DOMAIN),
            "imageID": str(disk),
            "size": "1073741824",
            "volFormat": 4,
            "preallocate": 2,
            "diskType": "DATA",
            "desc": "",
            "srcImgUUID": NO_VOLUME,
            "srcVolUUID": NO_VOLUME,
        }

    def _id(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)


def _delete(pool: UUID, disk: UUID) -> dict[str, Any]:
    return {
        "imageID": str(disk),
        "storagepoolID": str(pool),
        "storagedomainID": str(DOMAIN),
        "postZero": "false",
        "discard": False,
        "force": "false",
    }
