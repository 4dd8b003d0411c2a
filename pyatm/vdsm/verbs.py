"""VDSM's verbs with names, types and time limits, grouped as in VDSM's own API.

Every verb raises :class:`~pyatm.vdsm.errors.Refused` (or its subclass for the code),
:class:`~pyatm.vdsm.errors.NotSent` or :class:`~pyatm.vdsm.errors.Unknown`. ``timeout`` is in
seconds; None takes the client's setting for fast or slow verbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pyatm.vdsm import results
from pyatm.vdsm.results import SpmStatus, TaskInfo, TaskStatus, TaskStatuses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyatm.vdsm.errors import Json

T = TypeVar("T")
NO_VOLUME = "00000000-0000-0000-0000-000000000000"


class Caller(Protocol):
    """What the verbs need of a client."""

    async def call_json(self, method: str, *, timeout: float | None = None) -> str:
        """Call without parameters; the JSON text of an object."""
        ...

    async def call_as(
        self,
        read: Callable[[Json], T],
        method: str,
        params: Mapping[str, Json],
        *,
        slow: bool = False,
        timeout: float | None = None,
        correlation_id: str | None = None,
        send_by: float | None = None,
    ) -> T:
        """Call and read the answer with ``read``, whose ``ValueError`` means a bad answer."""
        ...


@dataclass(frozen=True, slots=True)
class Sending:
    """How a creating verb is sent.

    :param timeout: seconds until the call ends; None takes the client's ``slow_timeout``.
    :param correlation_id: appears in VDSM's log, comes back in ``LateAnswer``.
    :param send_by: the moment (``time.monotonic()``) after which it must not be sent any more.
    """

    timeout: float | None = None
    correlation_id: str | None = None
    send_by: float | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """Verbs about the host as a whole."""

    caller: Caller

    async def ping(self, *, timeout: float | None = None) -> None:
        """``Host.ping2``: the proof that VDSM answers requests."""
        await self.caller.call_as(results.true, "Host.ping2", {}, timeout=timeout)

    async def get_all_tasks_statuses(self, *, timeout: float | None = None) -> TaskStatuses:
        """All tasks of the SPM, ended ones included until they are cleared.

        Raises :class:`~pyatm.vdsm.errors.NotSpm` when the host is not the SPM, which says nothing
        about any task.
        """
        return TaskStatuses(
            await self.caller.call_json("Host.getAllTasksStatuses", timeout=timeout)
        )

    async def get_all_tasks_info(self, *, timeout: float | None = None) -> dict[str, TaskInfo]:
        """The verbs behind all tasks of the SPM, by task id; raises ``NotSpm`` as above."""
        call = self.caller.call_as
        return await call(results.task_infos, "Host.getAllTasksInfo", {}, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Task:
    """Verbs about one task, named by VDSM's task id. All of them may be repeated."""

    caller: Caller

    async def get_status(self, task_id: str, *, timeout: float | None = None) -> TaskStatus:
        """The status of one task; raises ``TaskUnknown``."""
        params: dict[str, Json] = {"taskID": task_id}
        call = self.caller.call_as
        return await call(results.task_status, "Task.getStatus", params, timeout=timeout)

    async def stop(self, task_id: str, *, timeout: float | None = None) -> None:
        """Ask the task to stop; it ends later, or has no effect on an ended task.

        Raises ``StopPending`` when it was asked before, ``TaskUnknown``.
        """
        await self._tell("Task.stop", task_id, timeout)

    async def revert(self, task_id: str, *, timeout: float | None = None) -> None:
        """Roll back a task that succeeded; the answer comes when the rollback is over.

        Raises ``RevertTooEarly``, ``RevertImpossible`` (rolled back already), ``TaskUnknown``.
        """
        await self._tell("Task.revert", task_id, timeout)

    async def clear(self, task_id: str, *, timeout: float | None = None) -> None:
        """Make VDSM forget an ended task.

        Raises ``TaskNotFinished``; ``TaskUnknown`` when it is forgotten already (or when this VDSM
        has not loaded it yet).
        """
        await self._tell("Task.clear", task_id, timeout)

    async def _tell(self, method: str, task_id: str, timeout: float | None) -> None:
        params: dict[str, Json] = {"taskID": task_id}
        await self.caller.call_as(results.true, method, params, slow=True, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Pool:
    """Verbs about a storage pool."""

    caller: Caller

    async def get_spm_status(self, pool_id: str, *, timeout: float | None = None) -> SpmStatus:
        """The role of this host in the pool; raises ``PoolNotConnected``."""
        params: dict[str, Json] = {"storagepoolID": pool_id}
        call = self.caller.call_as
        method = "StoragePool.getSpmStatus"
        return await call(results.spm_status, method, params, timeout=timeout)

    async def spm_start(
        self,
        pool_id: str,
        *,
        previous_id: int = -1,
        previous_lver: int = -1,
        max_host_id: int = 250,
        timeout: float | None = None,
    ) -> str:
        """Make this host the SPM; returns the id of the task that does it (``Task.getStatus``).

        :param previous_id: ``spm_id`` of the last known SPM status, -1 for none.
        :param previous_lver: ``lver`` of it.
        :param max_host_id: the highest host id that the pool may hold.

        Raises ``SpmActive``, ``PoolNotConnected``.
        """
        params: dict[str, Json] = {
            "storagepoolID": pool_id,
            "prevID": previous_id,
            "prevLver": str(previous_lver),
            "enableScsiFencing": "false",
            "maxHostID": max_host_id,
        }
        call = self.caller.call_as
        method = "StoragePool.spmStart"
        return await call(results.task_id, method, params, slow=True, timeout=timeout)

    async def spm_stop(self, pool_id: str, *, timeout: float | None = None) -> None:
        """Give up the SPM role. VDSM does so even while tasks run; raises ``NotSpm``."""
        params: dict[str, Json] = {"storagepoolID": pool_id}
        method = "StoragePool.spmStop"
        await self.caller.call_as(results.true, method, params, slow=True, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Image:
    """Verbs about a disk's image."""

    caller: Caller

    async def delete(
        self,
        image_id: str,
        *,
        pool_id: str,
        domain_id: str,
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
        sending: Sending | None = None,
    ) -> str:
        """Start ``Image.delete`` on the SPM; returns VDSM's task id.

        :param post_zero: overwrite the data with zeros first.
        :param discard: tell the storage that the blocks are free.
        :param force: delete although templates or snapshots may depend on it.

        Never repeat it after ``Unknown``: a second task would wait behind the first.
        """
        params: dict[str, Json] = {
            "imageID": image_id,
            "storagepoolID": pool_id,
            "storagedomainID": domain_id,
            "postZero": _text(post_zero),
            "discard": discard,
            "force": _text(force),
        }
        return await create_task(self.caller, "Image.delete", params, sending)


@dataclass(frozen=True, slots=True)
class Volume:
    """Verbs about the volumes of an image."""

    caller: Caller

    async def create(
        self,
        volume_id: str,
        *,
        pool_id: str,
        domain_id: str,
        image_id: str,
        size_bytes: int,
        format: int = 4,  # noqa: A002 (VDSM's own word)
        preallocation: int = 2,
        disk_type: str = "DATA",
        description: str = "",
        source_image_id: str = NO_VOLUME,
        source_volume_id: str = NO_VOLUME,
        sequence: int = 1,
        sending: Sending | None = None,
    ) -> str:
        """Start ``Volume.create`` on the SPM; returns VDSM's task id.

        :param size_bytes: virtual size in bytes.
        :param format: 4 copy-on-write, 5 raw.
        :param preallocation: 1 preallocated, 2 sparse.
        :param disk_type: ``DATA``, or ``MEMD`` and ``MEMM`` for the memory of a VM and its
            metadata.
        :param source_image_id: image and volume that a snapshot's volume is based on.
        :param sequence: number in the chain of snapshots, from 1.
        """
        params: dict[str, Json] = {
            "volumeID": volume_id,
            "storagepoolID": pool_id,
            "storagedomainID": domain_id,
            "imageID": image_id,
            "size": str(size_bytes),
            "volFormat": format,
            "preallocate": preallocation,
            "diskType": disk_type,
            "desc": description,
            "srcImgUUID": source_image_id,
            "srcVolUUID": source_volume_id,
            "sequence": sequence,
            "addBitmaps": False,
            "legal": True,
        }
        return await create_task(self.caller, "Volume.create", params, sending)

    async def copy(
        self,
        volume_id: str,
        *,
        pool_id: str,
        domain_id: str,
        image_id: str,
        to_domain_id: str,
        to_image_id: str,
        to_volume_id: str,
        description: str = "",
        volume_type: int = 6,
        format: int = 4,  # noqa: A002 (VDSM's own word)
        preallocation: int = 2,
        post_zero: bool = False,
        discard: bool = False,
        force: bool = False,
        sending: Sending | None = None,
    ) -> str:
        """Start ``Volume.copy`` on the SPM; returns VDSM's task id.

        :param volume_type: of the copy: 6 shared (a template's), 7 internal, 8 leaf.
        :param format: of the copy, as for :meth:`create`; so is ``preallocation``.
        """
        params: dict[str, Json] = {
            "volumeID": volume_id,
            "storagepoolID": pool_id,
            "storagedomainID": domain_id,
            "imageID": image_id,
            "dstSdUUID": to_domain_id,
            "dstImgUUID": to_image_id,
            "dstVolUUID": to_volume_id,
            "desc": description,
            "volType": volume_type,
            "volFormat": format,
            "preallocate": preallocation,
            "postZero": _text(post_zero),
            "discard": discard,
            "force": _text(force),
        }
        return await create_task(self.caller, "Volume.copy", params, sending)


@dataclass(frozen=True, slots=True)
class HibernationVolumes:
    """Where the memory of a hibernated VM goes: ids of domain, pool, images and volumes."""

    domain_id: str
    pool_id: str
    memory_image_id: str
    memory_volume_id: str
    metadata_image_id: str
    metadata_volume_id: str

    def handle(self) -> str:
        """The six ids as VDSM wants them."""
        memory = f"{self.memory_image_id},{self.memory_volume_id}"
        metadata = f"{self.metadata_image_id},{self.metadata_volume_id}"
        return f"{self.domain_id},{self.pool_id},{memory},{metadata}"


@dataclass(frozen=True, slots=True)
class Vm:
    """Verbs about a virtual machine; they go to the host that runs it, not to the SPM."""

    caller: Caller

    async def hibernate(
        self,
        vm_id: str,
        volumes: HibernationVolumes,
        *,
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Start saving the VM's memory. Not a task: the answer means only that it was accepted.

        Raises ``VmUnknown`` when the VM is not on this host.
        """
        params: dict[str, Json] = {"vmID": vm_id, "hibernationVolHandle": volumes.handle()}
        await self.caller.call_as(
            results.true,
            "VM.hibernate",
            params,
            slow=True,
            timeout=timeout,
            correlation_id=correlation_id,
        )


async def create_task(
    caller: Caller, method: str, params: Mapping[str, Json], sending: Sending | None = None
) -> str:
    """Call any verb that starts a task; returns VDSM's task id."""
    sending = sending or Sending()
    return await caller.call_as(
        results.task_id,
        method,
        params,
        slow=True,
        timeout=sending.timeout,
        correlation_id=sending.correlation_id,
        send_by=sending.send_by,
    )


def _text(flag: bool) -> str:
    # The engine has always sent these two as texts, and VDSM reads them as that.
    return "true" if flag else "false"
