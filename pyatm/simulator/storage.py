"""Disk contents: images and volumes as directories and files below the storage directory.

Layout, as on a VDSM host: ``<directory>/<pool>/<domain>/images/<image>/<volume>``. An image whose
removal has begun is renamed to ``_remove_me_<image>``; what has been removed leaves an empty file
in ``<domain>/removed/``, so that removing it twice is refused also after a restart.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

REMOVING: Final = "_remove_me_"
MASTER: Final = "mastersd"


def is_uuid(value: object) -> bool:
    """Whether ``value`` is the text of a uuid; ids from the wire may be anything."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


class Existence(StrEnum):
    """Which images and volumes exist for the verbs.

    ``strict``: those in the storage directory. ``tracked``: also all that were never seen, until
    they are removed, so that a test need not create the disks that it removes. ``assumed``:
    everything that was not declared missing, removed or not (VDSM with stand-ins for its storage).
    """

    STRICT = "strict"
    TRACKED = "tracked"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class ImageContents:
    """One image on disk.

    Attributes:
        image_id: the image.
        domain_id: the storage domain that holds it.
        removing: its removal has begun and not ended.
        volumes: per volume id ``legal`` (complete) or ``half-made``.
    """

    image_id: str
    domain_id: str
    removing: bool
    volumes: Mapping[str, str]


class DiskContents:
    """The images of one storage directory.

    Args:
        directory: the storage directory.
        existence: what the verbs take for existing.
    """

    def __init__(self, directory: Path, existence: Existence = Existence.TRACKED) -> None:
        self.directory = directory
        self.existence = existence
        self.missing: set[str] = set()
        """Ids of images, volumes and domains that were declared not to exist."""

    def images(self, pool_id: str) -> dict[str, ImageContents]:
        """Every image of a pool that is on disk, by id."""
        found: dict[str, ImageContents] = {}
        for path in sorted((self.directory / pool_id).glob("*/images/*")):
            name = path.name.removeprefix(REMOVING)
            volumes = {
                volume.name: str(json.loads(volume.read_bytes())["state"])
                for volume in sorted(path.iterdir())
                if not volume.name.startswith(".")
            }
            removing = path.name.startswith(REMOVING)
            found[name] = ImageContents(name, path.parent.parent.name, removing, volumes)
        return found

    def removed(self, pool_id: str) -> set[str]:
        """Ids of the images and volumes of a pool that were removed and not made again."""
        return {path.name for path in (self.directory / pool_id).glob("*/removed/*")}

    def domain_exists(self, domain_id: object) -> bool:
        """Every domain does that was not declared missing and whose id is a uuid."""
        return is_uuid(domain_id) and domain_id not in self.missing

    def image_exists(self, pool_id: str, domain_id: str, image_id: str) -> bool:
        """True also while its removal has begun: a second removal ends what the first left."""
        if image_id in self.missing:
            return False
        if self.existence is Existence.ASSUMED:
            return True
        on_disk = self._image(pool_id, domain_id, image_id).exists()
        on_disk = on_disk or self._image(pool_id, domain_id, REMOVING + image_id).exists()
        return on_disk or (
            self.existence is Existence.TRACKED
            and not self._tombstone(pool_id, domain_id, image_id).exists()
        )

    def volume_exists(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> bool:
        if volume_id in self.missing or image_id in self.missing:
            return False
        if self.existence is Existence.ASSUMED:
            return True
        if (self._image(pool_id, domain_id, image_id) / volume_id).exists():
            return True
        return self.existence is Existence.TRACKED and not any(
            self._tombstone(pool_id, domain_id, name).exists() for name in (image_id, volume_id)
        )

    def add_volume(
        self,
        pool_id: str,
        domain_id: str,
        image_id: str,
        volume_id: str,
        *,
        complete: bool = True,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a volume, and its image when it is the first one; again: completes it."""
        image = self._image(pool_id, domain_id, image_id)
        image.mkdir(parents=True, exist_ok=True)
        contents = {**(attributes or {}), "state": "legal" if complete else "half-made"}
        temporary = image / f".{volume_id}"
        temporary.write_text(json.dumps(contents))
        temporary.replace(image / volume_id)
        for name in (image_id, volume_id):
            self._tombstone(pool_id, domain_id, name).unlink(missing_ok=True)

    def remove_volume(self, pool_id: str, domain_id: str, image_id: str, volume_id: str) -> None:
        """Remove a volume, and its image with the last one; harmless when it is not there."""
        image = self._image(pool_id, domain_id, image_id)
        volume = image / volume_id
        if volume.exists():
            volume.unlink()
            self._bury(pool_id, domain_id, volume_id)
        if image.exists() and not any(image.iterdir()):
            image.rmdir()

    def begin_removal(self, pool_id: str, domain_id: str, image_id: str) -> None:
        """Rename the image, so that nobody uses it any more."""
        image = self._image(pool_id, domain_id, image_id)
        renamed = self._image(pool_id, domain_id, REMOVING + image_id)
        if image.exists():
            shutil.rmtree(renamed, ignore_errors=True)
            image.rename(renamed)
        else:
            renamed.mkdir(parents=True, exist_ok=True)

    def end_removal(self, pool_id: str, domain_id: str, image_id: str) -> None:
        """Remove the renamed image for good."""
        shutil.rmtree(self._image(pool_id, domain_id, REMOVING + image_id), ignore_errors=True)
        self._bury(pool_id, domain_id, image_id)

    def _image(self, pool_id: str, domain_id: str, image_id: str) -> Path:
        return self.directory / pool_id / domain_id / "images" / image_id

    def _tombstone(self, pool_id: str, domain_id: str, name: str) -> Path:
        return self.directory / pool_id / domain_id / "removed" / name

    def _bury(self, pool_id: str, domain_id: str, name: str) -> None:
        tombstone = self._tombstone(pool_id, domain_id, name)
        tombstone.parent.mkdir(parents=True, exist_ok=True)
        tombstone.touch()
