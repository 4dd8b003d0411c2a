"""Remove VM: one `Image.delete` per disk, then the VM's row."""

from typing import Any

from pyatm.engine import CommandPlan, EndAction, Entity, Finish
from pyatm.flows.flow import Flow, Options, ids, vm_id
from pyatm.flows.inventory import Inventory, Vm
from pyatm.flows.reverts import image_id
from pyatm.flows.vdsm_tasks import delete_image


class RemoveVm(Flow):
    """Removes a VM with all its disks."""

    name = "remove-vm"
    action_type = "RemoveVm"
    illegal_too = True

    async def plan(self, inventory: Inventory, vm: Vm, options: Options) -> CommandPlan:
        """VM and disks alone; the storage domain shared, so that nobody deactivates it."""
        del options
        disk_ids = [disk.disk_id for disk in vm.disks]
        await inventory.set_vm(vm.vm_id, "LOCKED")
        await inventory.set_disks(disk_ids, "LOCKED")
        return CommandPlan(
            self.action_type,
            {
                "vm_id": str(vm.vm_id),
                "disk_ids": [str(disk_id) for disk_id in disk_ids],
                "illegal_ids": [str(d.disk_id) for d in vm.disks if d.state == "ILLEGAL"],
            },
            (Entity("VM", vm.vm_id, "exclusive"),),
            children=tuple(
                CommandPlan(
                    "RemoveImage",
                    entities=(
                        Entity("Disk", disk.disk_id, "exclusive"),
                        Entity("Storage", disk.domain_id),
                    ),
                    tasks=(delete_image(disk),),
                )
                for disk in vm.disks
            ),
        )

    async def succeed(self, inventory: Inventory, end_action: EndAction, told: Any) -> Finish:
        """Every image is gone: so are the rows."""
        del told
        await inventory.remove_disks(image_id(task) for task in end_action.tasks)
        await inventory.remove_vm(vm_id(end_action))
        return Finish()

    async def fail(self, inventory: Inventory, end_action: EndAction) -> Finish:
        """What was removed is gone, what was never touched is as before, the rest is ILLEGAL.

        A deletion cannot be reverted; removing the VM again ends the work.
        """
        illegal = set(ids(end_action.parameters, "illegal_ids"))
        for task in end_action.tasks:
            disk = [image_id(task)]
            refused = task.outcome == "failed" and task.vdsm_task_id is None
            if task.outcome == "succeeded":
                await inventory.remove_disks(disk)
            elif task.outcome == "not_submitted" or refused:
                await inventory.set_disks(disk, "ILLEGAL" if disk[0] in illegal else "OK")
            else:
                await inventory.set_disks(disk, "ILLEGAL")
        await inventory.set_vm(vm_id(end_action), "OK")
        return Finish(message="not all images were removed")
