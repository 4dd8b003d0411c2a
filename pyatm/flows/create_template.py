"""Create Template: one `Volume.copy` per disk into images of the template."""

from typing import Any
from uuid import UUID, uuid4

from pyatm.engine import CommandPlan, EndAction, Entity, Finish
from pyatm.flows.flow import Flow, Options, ids
from pyatm.flows.inventory import Disk, Inventory, Vm
from pyatm.flows.reverts import take_back
from pyatm.flows.vdsm_tasks import copy_to_template


class CreateTemplate(Flow):
    """Makes a template of a VM. It only reads the VM: several may run side by side."""

    name = "create-template"
    action_type = "AddVmTemplate"

    async def plan(self, inventory: Inventory, vm: Vm, options: Options) -> CommandPlan:
        """VM and source disks shared, the template and its disks alone."""
        del options
        template_id = uuid4()
        await inventory.add_template(template_id, vm.vm_id)
        pairs: list[tuple[Disk, Disk]] = []
        for source in vm.disks:
            copy = Disk(
                uuid4(),
                template_id,
                source.storage_pool_id,
                source.domain_id,
                uuid4(),
                source.size_bytes,
                state="LOCKED",
            )
            await inventory.add_disk(copy)
            pairs.append((source, copy))
        return CommandPlan(
            self.action_type,
            {
                "vm_id": str(vm.vm_id),
                "template_id": str(template_id),
                "disk_ids": [str(copy.disk_id) for _, copy in pairs],
            },
            (Entity("VM", vm.vm_id), Entity("VmTemplate", template_id, "exclusive")),
            children=(
                CommandPlan(
                    "CreateAllTemplateDisks",
                    children=tuple(
                        CommandPlan(
                            "CreateImageTemplate",
                            entities=(
                                Entity("Disk", source.disk_id),
                                Entity("Disk", copy.disk_id, "exclusive"),
                                Entity("Storage", source.domain_id),
                            ),
                            tasks=(copy_to_template(source, copy),),
                        )
                        for source, copy in pairs
                    ),
                ),
            ),
        )

    async def succeed(self, inventory: Inventory, end_action: EndAction, told: Any) -> Finish:
        """The template may be used."""
        del told
        await inventory.set_disks(ids(end_action.parameters, "disk_ids"), "OK")
        await inventory.end_template(_template_id(end_action), "OK")
        return Finish()

    async def fail(self, inventory: Inventory, end_action: EndAction) -> Finish:
        """Copies are taken back; a template of which something may be left stays as ILLEGAL."""
        left = await take_back(inventory, end_action, lambda _: "remove")
        template_id = _template_id(end_action)
        if left:
            await inventory.end_template(template_id, "ILLEGAL")
        else:
            await inventory.end_template_without_copies(template_id)
        return Finish(disposition="revert", message="not all disks were copied")

    def touched(self, end_action: EndAction) -> list[Entity]:
        """Only what is new: the VM and its disks are read by others too."""
        copies = ids(end_action.parameters, "disk_ids")
        return [Entity("Disk", disk_id) for disk_id in copies]


def _template_id(end_action: EndAction) -> UUID:
    return UUID(str(end_action.parameters["template_id"]))
