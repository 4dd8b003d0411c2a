"""Tasks with the parameters of their VDSM verbs, as oVirt's engine sends them."""

from typing import Final
from uuid import UUID

from pyatm.engine import TaskPlan
from pyatm.flows.inventory import Disk
from pyatm.vdsm.verbs import NO_VOLUME

METHODS: Final = {
    "deleteImage": "Image.delete",
    "createVolume": "Volume.create",
    "copyImage": "Volume.copy",
}
"""VDSM's method for each task type; the task's parameters are the method's."""

COW: Final = 4
SPARSE: Final = 2
SHARED_VOLUME: Final = 6
"""A template's volume, which many disks may be based on."""


def delete_image(disk: Disk) -> TaskPlan:
    """Remove the disk's image with all its volumes."""
    parameters = {
        "imageID": str(disk.disk_id),
        "storagepoolID": str(disk.storage_pool_id),
        "storagedomainID": str(disk.domain_id),
        "postZero": "false",
        "discard": False,
        "force": "false",
    }
    return TaskPlan("deleteImage", disk.storage_pool_id, parameters)


def create_volume(
    disk: Disk, volume_id: UUID, *, based_on: UUID | None = None, sequence: int = 1
) -> TaskPlan:
    """Make a volume in the disk's image.

    Args:
        based_on: the volume of the same image that a snapshot's volume builds on.
        sequence: number in the chain of snapshots.
    """
    parameters = {
        "volumeID": str(volume_id),
        "storagepoolID": str(disk.storage_pool_id),
        "storagedomainID": str(disk.domain_id),
        "imageID": str(disk.disk_id),
        "size": str(disk.size_bytes),
        "volFormat": COW,
        "preallocate": SPARSE,
        "diskType": disk.kind,
        "desc": "",
        "srcImgUUID": NO_VOLUME if based_on is None else str(disk.disk_id),
        "srcVolUUID": NO_VOLUME if based_on is None else str(based_on),
        "sequence": sequence,
        "addBitmaps": False,
        "legal": True,
    }
    return TaskPlan("createVolume", disk.storage_pool_id, parameters)


def copy_to_template(source: Disk, copy: Disk) -> TaskPlan:
    """Copy a disk's newest state into a new image of a template."""
    parameters = {
        "volumeID": str(source.volume_id),
        "storagepoolID": str(source.storage_pool_id),
        "storagedomainID": str(source.domain_id),
        "imageID": str(source.disk_id),
        "dstSdUUID": str(copy.domain_id),
        "dstImgUUID": str(copy.disk_id),
        "dstVolUUID": str(copy.volume_id),
        "desc": "",
        "volType": SHARED_VOLUME,
        "volFormat": COW,
        "preallocate": SPARSE,
        "postZero": "false",
        "discard": False,
        "force": "false",
    }
    return TaskPlan("copyImage", source.storage_pool_id, parameters)
