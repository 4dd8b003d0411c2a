"""The toy inventory: VMs, disks, templates and snapshots of an engine, in its own schema."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import class_row

State = Literal["OK", "LOCKED", "ILLEGAL"]
DomainState = Literal["Active", "Inactive"]
Afterwards = Literal["remove", "OK"]
"""What becomes of a disk whose new volume VDSM has taken back."""
GIB: Final = 1 << 30


class NotInInventory(Exception):  # noqa: N818 (reads as what it says)
    """There is no such VM."""


class NotOk(Exception):  # noqa: N818 (reads as what it says)
    """A VM, disk or storage domain is not in a state for this; the message says which."""


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
        engine_name: whose reverts it notes.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], engine_name: str = "") -> None:
        self._connection, self._engine_name = connection, engine_name

    async def add_vm(
        self, name: str, disks: int, storage_pool_id: UUID, domain_id: UUID, *, power: str = "Up"
    ) -> UUID:
        """Add a VM with new disks of 1 GiB; returns its id."""
        vm_id = uuid4()
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.vm (vm_id, name, power) VALUES (%s, %s, %s)",
            [vm_id, name, power],
        )
        await self.add_domain(domain_id)
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

    async def vm(self, vm_id: UUID, *, illegal_too: bool = False) -> Vm:
        """The VM and its data disks, locked against other transactions.

        Args:
            illegal_too: disks may be ILLEGAL.

        Raises:
            NotInInventory: there is no such VM.
            NotOk: it or a disk is LOCKED, a disk is ILLEGAL, or a storage domain is Inactive.
        """
        cursor = await self._connection.execute(
            "SELECT name, state, power FROM pyatm_inventory.vm WHERE vm_id = %s FOR UPDATE", [vm_id]
        )
        row = await cursor.fetchone()
        if row is None:
            raise NotInInventory(f"VM {vm_id} is not in the inventory")
        disks = [disk for disk in await self.disks(vm_id) if disk.kind == "DATA"]
        vm = Vm(vm_id, row[0], row[1], row[2], tuple(disks))
        _require_ok(vm, illegal_too)
        await self._require_active({disk.domain_id for disk in disks})
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
        """The template's state from now on; None removes it."""
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

    async def add_domain(self, domain_id: UUID) -> None:
        """A storage domain, Active unless it is known already."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.storage_domain (domain_id) VALUES (%s)"
            " ON CONFLICT DO NOTHING",
            [domain_id],
        )

    async def set_domain(self, domain_id: UUID, state: DomainState) -> None:
        """Change a storage domain's state; waits for plans that rely on the present one."""
        await self.add_domain(domain_id)
        await self._connection.execute(
            "UPDATE pyatm_inventory.storage_domain SET state = %s WHERE domain_id = %s",
            [state, domain_id],
        )

    async def _require_active(self, domain_ids: Iterable[UUID]) -> None:
        cursor = await self._connection.execute(
            "SELECT domain_id, state FROM pyatm_inventory.storage_domain"
            " WHERE domain_id = ANY (%s) FOR SHARE",
            [list(domain_ids)],
        )
        for domain_id, state in await cursor.fetchall():
            if state != "Active":
                raise NotOk(f"storage domain {domain_id} is {state}; activate it first")

    async def await_revert(
        self, root_command_id: UUID, task_id: UUID, disk_id: UUID, afterwards: Afterwards
    ) -> None:
        """VDSM will take a volume back; until it says so the disk stays as it is."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.reverting"
            " (task_id, root_command_id, engine_name, disk_id, afterwards)"
            " VALUES (%s, %s, %s, %s, %s)",
            [task_id, root_command_id, self._engine_name, disk_id, afterwards],
        )

    async def end_revert(self, task_id: UUID) -> None:
        """VDSM has said how it ended."""
        await self._connection.execute(
            "DELETE FROM pyatm_inventory.reverting WHERE task_id = %s", [task_id]
        )

    async def end_template_without_copies(self, template_id: UUID) -> None:
        """End a template whose last copy VDSM has taken back; harmless for any other id."""
        disks = await self.disks(template_id)
        if not disks:
            await self.end_template(template_id, None)
        elif not any(disk.state == "LOCKED" for disk in disks):
            await self.end_template(template_id, "ILLEGAL")

    async def note_effect(self, root_command_id: UUID, effect: str) -> None:
        """An endAction took effect."""
        await self._connection.execute(
            "INSERT INTO pyatm_inventory.effect (root_command_id, effect) VALUES (%s, %s)",
            [root_command_id, effect],
        )


def _require_ok(vm: Vm, illegal_too: bool) -> None:
    if vm.state != "OK":
        raise NotOk(f"VM {vm.vm_id} is {vm.state}; wait for the command that works on it")
    for disk in vm.disks:
        if disk.state == "LOCKED" or (disk.state == "ILLEGAL" and not illegal_too):
            raise NotOk(f"disk {disk.disk_id} of VM {vm.vm_id} is {disk.state}")
