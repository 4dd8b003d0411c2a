"""Create Snapshot: one `Volume.create` per disk on top of its volume, with memory two more."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from pyatm.engine import CommandPlan, EndAction, Entity, Finish, TaskPlan
from pyatm.flows.flow import Flow, Options, ids, vm_id
from pyatm.flows.inventory import Disk, Inventory, Vm
from pyatm.flows.reverts import image_id, take_back
from pyatm.flows.vdsm_tasks import create_volume


class CreateSnapshot(Flow):
    """Freezes the VM's disks: each goes on in a new volume."""

    name = "create-snapshot"
    action_type = "CreateSnapshotForVm"

    async def plan(self, inventory: Inventory, vm: Vm, options: Options) -> CommandPlan:
        """VM, disks and snapshot alone."""
        snapshot_id = uuid4()
        disk_ids = [disk.disk_id for disk in vm.disks]
        await inventory.set_vm(vm.vm_id, "LOCKED")
        await inventory.set_disks(disk_ids, "LOCKED")
        await inventory.add_snapshot(snapshot_id, vm.vm_id)
        children = [
            _child(disk, create_volume(disk, uuid4(), based_on=disk.volume_id, sequence=2))
            for disk in vm.disks
        ]
        memory: list[Disk] = []
        for kind in ("MEMD", "MEMM") if options.memory and vm.disks else ():
            disk = replace(vm.disks[0], disk_id=uuid4(), volume_id=uuid4(), owner_id=snapshot_id)
            memory.append(replace(disk, kind=kind, state="LOCKED"))
            await inventory.add_disk(memory[-1])
            children.append(_child(memory[-1], create_volume(memory[-1], memory[-1].volume_id)))
        return CommandPlan(
            self.action_type,
            {
                "vm_id": str(vm.vm_id),
                "snapshot_id": str(snapshot_id),
                "disk_ids": [str(disk_id) for disk_id in disk_ids],
                "memory_ids": [str(disk.disk_id) for disk in memory],
            },
            (
                Entity("VM", vm.vm_id, "exclusive"),
                Entity("Snapshot", snapshot_id, "exclusive"),
            ),
            children=tuple(children),
        )

    async def succeed(self, inventory: Inventory, end_action: EndAction, told: Any) -> Finish:
        """Each disk goes on in its new volume."""
        del told
        for task in end_action.tasks:
            await inventory.set_volume(image_id(task), UUID(task.parameters["volumeID"]))
            await inventory.set_disks([image_id(task)], "OK")
        await inventory.end_snapshot(_snapshot_id(end_action), made=True)
        await inventory.set_vm(vm_id(end_action), "OK")
        return Finish()

    async def fail(self, inventory: Inventory, end_action: EndAction) -> Finish:
        """New volumes are taken back; a disk with half a volume on top is ILLEGAL."""
        memory = set(ids(end_action.parameters, "memory_ids"))
        await take_back(
            inventory, end_action, lambda disk_id: "remove" if disk_id in memory else "OK"
        )
        await inventory.end_snapshot(_snapshot_id(end_action), made=False)
        await inventory.set_vm(vm_id(end_action), "OK")
        return Finish(disposition="revert", message="not all volumes were made")


def _child(disk: Disk, task: TaskPlan) -> CommandPlan:
    entities = (Entity("Disk", disk.disk_id, "exclusive"), Entity("Storage", disk.domain_id))
    return CommandPlan("CreateSnapshotDisk", entities=entities, tasks=(task,))


def _snapshot_id(end_action: EndAction) -> UUID:
    return UUID(str(end_action.parameters["snapshot_id"]))
