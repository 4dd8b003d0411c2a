"""What the work of each storage verb does to the disk contents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyatm.simulator import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyatm.simulator.storage import DiskContents


class NewVolume:
    """Makes a volume (createVolume, copyImage); its rollback removes it."""

    has_rollback = True

    def __init__(
        self,
        contents: DiskContents,
        pool_id: str,
        domain_id: str,
        image_id: str,
        volume_id: str,
        attributes: Mapping[str, Any],
    ) -> None:
        self._contents = contents
        self._place = (pool_id, domain_id, image_id, volume_id)
        self._attributes = attributes

    def begin(self) -> None:
        self._contents.add_volume(*self._place, complete=False, attributes=self._attributes)

    async def complete(self) -> dict[str, str]:
        self._contents.add_volume(*self._place, attributes=self._attributes)
        return {"uuid": self._place[3]}

    def undo(self) -> None:
        self._contents.remove_volume(*self._place)


class RemovedImage:
    """Removes an image that was renamed when the verb was accepted; there is no way back."""

    has_rollback = False

    def __init__(self, contents: DiskContents, pool_id: str, domain_id: str, image_id: str) -> None:
        self._contents = contents
        self._place = (pool_id, domain_id, image_id)

    def begin(self) -> None:
        """The rename happened before there was a task."""

    async def complete(self) -> str:
        self._contents.end_removal(*self._place)
        return ""

    def undo(self) -> None:
        """Nothing can be undone."""


class NoWork:
    """Stands for work that nobody will do again, such as that of an ended task."""

    has_rollback = False

    def begin(self) -> None:
        """Nothing."""

    async def complete(self) -> str:
        return ""

    def undo(self) -> None:
        """Nothing."""


def job_for(
    verb: str, pool_id: str, params: Mapping[str, Any], contents: DiskContents
) -> NewVolume | RemovedImage | NoWork:
    """The work of ``verb`` with the parameters of its request, also of a task read from disk."""
    if verb == "createVolume":
        names = ("size", "volFormat", "preallocate", "diskType", "srcImgUUID", "srcVolUUID")
        return NewVolume(
            contents,
            pool_id,
            params["storagedomainID"],
            params["imageID"],
            params["volumeID"],
            {name: params.get(name) for name in names},
        )
    if verb == "copyImage":
        return NewVolume(
            contents,
            pool_id,
            params["dstSdUUID"],
            params["dstImgUUID"],
            params["dstVolUUID"],
            {"copyOf": params["volumeID"], "volFormat": params.get("volFormat")},
        )
    if verb == "deleteImage":
        return RemovedImage(contents, pool_id, params["storagedomainID"], params["imageID"])
    return NoWork()


def refuse_missing(
    verb: str, pool_id: str, params: Mapping[str, Any], contents: DiskContents
) -> None:
    """Raise what the storage layer answers when something that ``verb`` needs does not exist."""
    domain_id, image_id = params["storagedomainID"], params["imageID"]
    if verb == "deleteImage":
        if not contents.image_exists(pool_id, domain_id, image_id):
            raise errors.image_unknown(image_id, domain_id)
        return
    source = (image_id, params["volumeID"])
    if verb == "createVolume":
        source = (str(params.get("srcImgUUID")), str(params.get("srcVolUUID")))
        if source[1] in ("00000000-0000-0000-0000-000000000000", "None", ""):
            return
    if not contents.volume_exists(pool_id, domain_id, *source):
        raise errors.volume_unknown(source[1])
