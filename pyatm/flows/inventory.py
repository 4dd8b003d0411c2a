"""The toy inventory: VMs, disks, templates and snapshots of an engine, in its own schema."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import class_row

SCHEMA_FILE: Final = Path(__file__).with_name("inventory.sql")
_LOCK: Final = 0x70796174
State = Literal["OK", "LOCKED", "ILLEGAL"]
GIB: Final = 1 << 30


class NotInInventory(Exception):  # noqa: N818 (reads as what it says)
    """There is no such VM."""


class NotOk(Exception):  # noqa: N818 (reads as what it says)
    """The VM or one of its disks is LOCKED or ILLEGAL; the message says which."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk: an image with one volume that matters here.

    Attributes:
        disk_id: VDSM's image id.
        owner_id: the VM, template or snapshot.
        kind: `DATA`, or `MEMD` and `MEMM` for a VM's memory and its metadata.
    """

    disk_id: UUID
    owner_id: UUID
    storage_pool_id: UUID
    domain_id: UUID
    volume_id: UUID
    size_bytes: int = GIB
    kind: str = "DATA"
    state: State = "OK"


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM with its data disks."""

    vm_id: UUID
    name: str
    state: State
    power: str
    disks: tuple[Disk, ...]


class Inventory:
    """The inventory within one transaction of the engine.

    Args:
        connection: the transaction's.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def install(self) -> None:
        """Create the schema unless it exists."""
        await self._connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        await self._connection.execute(SCHEMA_FILE.read_bytes())

    async def add_vm(
        self, name: str, disks: int, storage_pool_id: UUID, domain_id: UUID, *, power: str = "Up"
    ) -> UUID:
        """Add a VM with new disks of 1 GiB; returns its id."""
        vm_id = uuid4()
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.vm (vm_id, name, power) VALUES (%s, %s, %s)",
            [vm_id, name, power],
        )
        for _ in range(disks):
            await self.add_disk(Disk(uuid4(), vm_id, storage_pool_id, domain_id, uuid4()))
        return vm_id

    async def add_disk(self, disk: Disk) -> None:
        """Add one disk as it is given."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.disk (disk_id, owner_id, storage_pool_id, domain_id,"
            " volume_id, size_bytes, kind, state) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                disk.disk_id,
                disk.owner_id,
                disk.storage_pool_id,
                disk.domain_id,
                disk.volume_id,
                disk.size_bytes,
                disk.kind,
                disk.state,
            ],
        )

    async def vm(self, vm_id: UUID, *, need_ok: bool = True) -> Vm:
        """The VM and its data disks, locked against other transactions.

        Raises:
            NotInInventory: there is no such VM.
            NotOk: it or a disk is LOCKED or ILLEGAL, and `need_ok`.
        """
        cursor = await self._connection.execute(
            "SELECT name, state, power FROM pyatm_inventory.vm WHERE vm_id = %s FOR UPDATE", [vm_id]
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotInInventory(f"VM {vm_id} is not in the inventory")
        disks = [disk for disk in await self.disks(vm_id) if disk.kind == "DATA"]
        vm = Vm(vm_id, row[0], row[1], row[2], tuple(disks))
        if need_ok:
            _require_ok(vm)
        return vm

    async def disks(self, owner_id: UUID) -> list[Disk]:
        """All disks of a VM, template or snapshot, in a stable order."""
        async with self._connection.cursor(row_factory=class_row(Disk)) as cursor:
            await cursor.execute(
                "SELECT disk_id, owner_id, storage_pool_id, domain_id, volume_id, size_bytes, kind,"
                " state FROM pyatm_inventory.disk WHERE owner_id = %s ORDER BY disk_id",
                [owner_id],
            )
            return await cursor.fetchall()

    async def set_vm(self, vm_id: UUID, state: State, *, power: str | None = None) -> None:
        """Change a VM's state, and its power if given."""
        await self._connection.execute(
            "UPDATE pyatm_inventory.vm SET state = %s, power = coalesce(%s, power)"
            " WHERE vm_id = %s",
            [state, power, vm_id],
        )

    async def set_disks(self, disk_ids: Iterable[UUID], state: State) -> None:
        """Change the state of disks."""
        await self._connection.execute(
            "UPDATE pyatm_inventory.disk SET state = %s WHERE disk_id = ANY (%s)",
            [state, list(disk_ids)],
        )

    async def set_volume(self, disk_id: UUID, volume_id: UUID) -> None:
        """The disk's newest volume is another one now, after a snapshot."""
        await self._connection.execute(
            "UPDATE pyatm_inventory.disk SET volume_id = %s WHERE disk_id = %s",
            [volume_id, disk_id],
        )

    async def remove_disks(self, disk_ids: Iterable[UUID]) -> None:
        """The images are gone from the storage."""
        await self._connection.execute(
            "DELETE FROM pyatm_inventory.disk WHERE disk_id = ANY (%s)", [list(disk_ids)]
        )

    async def remove_vm(self, vm_id: UUID) -> None:
        """The VM is gone."""
        await self._connection.execute("DELETE FROM pyatm_inventory.vm WHERE vm_id = %s", [vm_id])

    async def add_template(self, template_id: UUID, vm_id: UUID) -> None:
        """A template that is being made."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.template (template_id, vm_id) VALUES (%s, %s)",
            [template_id, vm_id],
        )

    async def end_template(self, template_id: UUID, state: State | None) -> None:
        """The template's last state; None removes it."""
        await self._connection.execute(
            "DELETE FROM pyatm_inventory.template WHERE template_id = %s AND %s::text IS NULL",
            [template_id, state],
        )
        await self._connection.execute(
            "UPDATE pyatm_inventory.template SET state = %s WHERE template_id = %s",
            [state, template_id],
        )

    async def add_snapshot(self, snapshot_id: UUID, vm_id: UUID) -> None:
        """A snapshot that is being made."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.snapshot (snapshot_id, vm_id) VALUES (%s, %s)",
            [snapshot_id, vm_id],
        )

    async def end_snapshot(self, snapshot_id: UUID, *, made: bool) -> None:
        """The snapshot is there, or never was."""
        if made:
            await self._connection.execute(
                "UPDATE pyatm_inventory.snapshot SET state = 'OK' WHERE snapshot_id = %s",
                [snapshot_id],
            )
        else:
            await self._connection.execute(
                "DELETE FROM pyatm_inventory.snapshot WHERE snapshot_id = %s", [snapshot_id]
            )

    async def note_effect(self, root_command_id: UUID, effect: str) -> None:
        """An endAction took effect."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.effect (root_command_id, effect) VALUES (%s, %s)",
            [root_command_id, effect],
        )


def _require_ok(vm: Vm) -> None:
    if vm.state != "OK":
        raise NotOk(f"VM {vm.vm_id} is {vm.state}; wait for the command that works on it")
    for disk in vm.disks:
        if disk.state != "OK":
            raise NotOk(f"disk {disk.disk_id} of VM {vm.vm_id} is {disk.state}")
