"""Hibernate VM: two volumes for the memory, then `VM.hibernate` on the VM's host."""

from typing import Any
from uuid import uuid4

from pyatm.engine import CommandPlan, EndAction, Entity, Finish
from pyatm.flows.flow import Flow, Options, ids, vm_id
from pyatm.flows.hosts import Hosts
from pyatm.flows.inventory import Disk, Inventory, NotOk, Vm
from pyatm.flows.reverts import take_back
from pyatm.flows.vdsm_tasks import create_volume
from pyatm.vdsm import Refused


class HibernateVm(Flow):
    """Saves the memory of a VM to new disks."""

    name = "hibernate-vm"
    action_type = "HibernateVm"

    async def plan(self, inventory: Inventory, vm: Vm, options: Options) -> CommandPlan:
        """The VM and the two new disks alone."""
        del options
        if vm.power != "Up" or not vm.disks:
            raise NotOk(f"VM {vm.vm_id} has no memory to save (it is {vm.power}) or no disk")
        await inventory.set_vm(vm.vm_id, "LOCKED")
        place = vm.disks[0]
        volumes = [
            Disk(
                uuid4(),
                vm.vm_id,
                place.storage_pool_id,
                place.domain_id,
                uuid4(),
                kind=kind,
                state="LOCKED",
            )
            for kind in ("MEMD", "MEMM")
        ]
        for disk in volumes:
            await inventory.add_disk(disk)
        handle = [place.domain_id, place.storage_pool_id]
        handle += [part for disk in volumes for part in (disk.disk_id, disk.volume_id)]
        return CommandPlan(
            self.action_type,
            {
                "vm_id": str(vm.vm_id),
                "disk_ids": [str(disk.disk_id) for disk in volumes],
                "handle": ",".join(str(part) for part in handle),
            },
            (Entity("VM", vm.vm_id, "exclusive"),),
            children=tuple(
                CommandPlan(
                    "AddDisk",
                    entities=(
                        Entity("Disk", disk.disk_id, "exclusive"),
                        Entity("Storage", disk.domain_id),
                    ),
                    tasks=(create_volume(disk, disk.volume_id),),
                )
                for disk in volumes
            ),
        )

    async def call_hosts(self, end_action: EndAction, hosts: Hosts) -> str | None:
        """Start saving the memory; returns the refusal, if it is one."""
        handle = end_action.parameters["handle"]
        params = {"vmID": str(vm_id(end_action)), "hibernationVolHandle": handle}
        try:
            await hosts.call("VM.hibernate", params, correlation_id=str(end_action.root_command_id))
        except Refused as refused:
            return str(refused)
        return None

    async def succeed(self, inventory: Inventory, end_action: EndAction, told: Any) -> Finish:
        """The VM is suspended; or its host refused, and the volumes are of no use."""
        if told is not None:
            await self._undo(inventory, end_action)
            return Finish(disposition="revert", message=f"the host refused: {told}")
        await inventory.set_disks(ids(end_action.parameters, "disk_ids"), "OK")
        await inventory.set_vm(vm_id(end_action), "OK", power="Suspended")
        return Finish()

    async def fail(self, inventory: Inventory, end_action: EndAction) -> Finish:
        """The VM runs on; volumes that were made are reverted."""
        await self._undo(inventory, end_action)
        return Finish(disposition="revert", message="the memory volumes were not made")

    async def _undo(self, inventory: Inventory, end_action: EndAction) -> None:
        await take_back(inventory, end_action, lambda _: "remove")
        await inventory.set_vm(vm_id(end_action), "OK")
