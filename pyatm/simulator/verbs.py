"""The verbs: what they want, what they refuse, what they do."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyatm.simulator import errors
from pyatm.simulator.jobs import job_for, refuse_missing
from pyatm.simulator.locks import LockRequest, ResourceLocks
from pyatm.simulator.parameters import Verb, bind
from pyatm.simulator.plans import JobPlan
from pyatm.simulator.spm import ConnectedPool, Role, SpmRoles
from pyatm.simulator.storage import is_uuid
from pyatm.simulator.task import HSM_TAG, SPM_TAG, TaskSpec

if TYPE_CHECKING:
    from pyatm.simulator.execution_log import ExecutionLog
    from pyatm.simulator.faults import Faults
    from pyatm.simulator.storage import DiskContents
    from pyatm.simulator.task_manager import TaskManager

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RawJson:
    """A result that is JSON text already."""

    text: str


@dataclass(frozen=True, slots=True)
class Host:
    """What the verbs work on: one VDSM process.

    Attributes:
        vms: ids of the VMs that run here, None: any id does.
    """

    tasks: TaskManager
    spm: SpmRoles
    locks: ResourceLocks
    contents: DiskContents
    faults: Faults
    log: ExecutionLog
    vms: set[str] | None
    spm_start_seconds: Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One request with its parameters by name."""

    host: Host
    method: str
    params: Params
    correlation_id: str | None


Handler = Callable[[Call], Awaitable[Any]]


async def _ping(_: Call) -> bool:
    return True


async def _all_statuses(call: Call) -> RawJson:
    tasks = call.host.spm.listed()
    return RawJson("{" + ", ".join(f'"{t.task_id}": {t.status}' for t in tasks) + "}")


async def _all_infos(call: Call) -> RawJson:
    tasks = call.host.spm.listed()
    return RawJson("{" + ", ".join(f'"{t.task_id}": {t.info}' for t in tasks) + "}")


async def _all_tasks(call: Call) -> dict[str, Any]:
    return {task_id: task.entry for task_id, task in call.host.tasks.tasks.items()}


async def _task_status(call: Call) -> RawJson:
    return RawJson(call.host.tasks.get(call.params["taskID"]).status)


async def _task_info(call: Call) -> RawJson:
    return RawJson(call.host.tasks.get(call.params["taskID"]).info)


async def _task_stop(call: Call) -> bool:
    await call.host.tasks.stop(call.params["taskID"])
    return True


async def _task_revert(call: Call) -> bool:
    await call.host.tasks.revert(call.params["taskID"])
    return True


async def _task_clear(call: Call) -> bool:
    call.host.tasks.clear(call.params["taskID"])
    return True


def _check_uuids(params: Params, names: Mapping[str, str]) -> None:
    for wire, name in names.items():
        value = params.get(wire)
        if not is_uuid(value):
            raise errors.invalid_parameter(name, value)


async def _create(
    call: Call, verb: str, uuids: Mapping[str, str], locks: Callable[[], list[LockRequest]]
) -> str:
    """What all verbs that make a task have in common; returns the task's id."""
    host, params = call.host, call.params
    pool = host.spm.connected(params["storagepoolID"])
    _check_uuids(params, uuids)
    host.spm.require(pool)
    for name in ("storagedomainID", "dstSdUUID"):
        if name in params and not host.contents.domain_exists(params[name]):
            raise errors.domain_unknown(params[name])
    wanted = tuple(locks())
    await host.locks.acquire(wanted)
    try:
        # The role may have gone while the verb waited.
        host.spm.require(pool)
        refuse_missing(verb, pool.pool_id, params, host.contents)
        if verb == "deleteImage":
            host.contents.begin_removal(pool.pool_id, params["storagedomainID"], params["imageID"])
        spec = TaskSpec(verb, pool.pool_id, SPM_TAG, params, wanted, call.correlation_id)
        job = job_for(verb, pool.pool_id, params, host.contents)
        plan = host.faults.plan(call.method, params, call.correlation_id)
    except BaseException:
        host.locks.release(wanted)
        raise
    task = await host.tasks.create(spec, job, plan, pool.master)
    return task.task_id


async def _image_delete(call: Call) -> str:
    domain, image = call.params["storagedomainID"], call.params["imageID"]
    return await _create(
        call,
        "deleteImage",
        {"imageID": "imgUUID"},
        lambda: [LockRequest(f"domain {domain}", False), LockRequest(f"{domain} {image}", True)],
    )


async def _volume_create(call: Call) -> str:
    return await _create(
        call,
        "createVolume",
        {"imageID": "imgUUID", "volumeID": "volUUID"},
        lambda: [LockRequest(f"domain {call.params['storagedomainID']}", False)],
    )


async def _volume_copy(call: Call) -> str:
    domains = {call.params["storagedomainID"], call.params["dstSdUUID"]}
    return await _create(
        call,
        "copyImage",
        {
            "imageID": "srcImgUUID",
            "volumeID": "srcVolUUID",
            "dstImgUUID": "dstImgUUID",
            "dstVolUUID": "dstVolUUID",
        },
        lambda: [LockRequest(f"domain {domain}", False) for domain in domains],
    )


class _SpmStart:
    """The work of a spmStart task."""

    has_rollback = False

    def __init__(self, spm: SpmRoles, pool: ConnectedPool) -> None:
        self._spm, self._pool = spm, pool

    def begin(self) -> None:
        """The role is taken at the end of the work."""

    async def complete(self) -> str:
        self._spm.start(self._pool)
        return ""

    def undo(self) -> None:
        """A start that failed has left nothing."""


async def _spm_start(call: Call) -> str:
    host = call.host
    pool = host.spm.connected(call.params["storagepoolID"])
    locks = (LockRequest(f"pool {pool.pool_id}", True),)
    await host.locks.acquire(locks)
    if pool.role is Role.SPM:
        host.locks.release(locks)
        raise errors.spm_active(pool.pool_id)
    spec = TaskSpec("spmStart", pool.pool_id, HSM_TAG, call.params, locks, call.correlation_id)
    plan = JobPlan(shortest=host.spm_start_seconds())
    task = await host.tasks.create(spec, _SpmStart(host.spm, pool), plan, None)
    return task.task_id


async def _spm_stop(call: Call) -> bool:
    host = call.host
    pool = host.spm.connected(call.params["storagepoolID"])
    locks = (LockRequest(f"pool {pool.pool_id}", True),)
    await host.locks.acquire(locks)
    try:
        host.spm.stop(pool)
    finally:
        host.locks.release(locks)
    return True


async def _spm_status(call: Call) -> dict[str, Any]:
    return call.host.spm.status(call.host.spm.connected(call.params["storagepoolID"]))


async def _pool_connect(call: Call) -> bool:
    _check_uuids(call.params, {"storagepoolID": "spUUID"})
    call.host.spm.connect(call.params["storagepoolID"])
    return True


async def _pool_disconnect(call: Call) -> bool:
    call.host.spm.disconnect(call.params["storagepoolID"])
    return True


async def _domain_images(call: Call) -> list[str]:
    domain = call.params["storagedomainID"]
    pools = [pool.pool_id for pool in call.host.spm.pools.values()]
    return [
        image.image_id
        for pool_id in pools
        for image in call.host.contents.images(pool_id).values()
        if image.domain_id == domain and not image.removing
    ]


def _require_vm(call: Call) -> str:
    vm_id = call.params["vmID"]
    if call.host.vms is not None and vm_id not in call.host.vms:
        raise errors.vm_unknown(vm_id)
    return str(vm_id)


async def _vm_hibernate(call: Call) -> bool:
    vm_id = _require_vm(call)
    volumes = call.params["hibernationVolHandle"]
    call.host.log.write(
        "vm_hibernated", vm_id=vm_id, volumes=volumes, correlation_id=call.correlation_id
    )
    return True


async def _vm_snapshot(call: Call) -> bool:
    vm_id = _require_vm(call)
    call.host.log.write(
        "vm_snapshot",
        vm_id=vm_id,
        drives=call.params["snapDrives"],
        correlation_id=call.correlation_id,
    )
    return True


_POOL: Final = (("storagepoolID", "UUID"),)
_TASK: Final = (("taskID", "UUID"),)
_VM: Final = (("vmID", "UUID"),)
_DOMAIN: Final = (("storagedomainID", "UUID"),)
_IMAGE: Final = (("imageID", "UUID"), ("storagepoolID", "spUUID"), ("storagedomainID", "sdUUID"))
_VOLUME: Final = (
    ("volumeID", "UUID"),
    ("storagepoolID", "spUUID"),
    ("storagedomainID", "sdUUID"),
    ("imageID", "imgUUID"),
)

VERBS: Final[Mapping[str, Verb[Handler]]] = {
    "Host.ping2": Verb(_ping),
    "Host.getAllTasksStatuses": Verb(_all_statuses),
    "Host.getAllTasksInfo": Verb(_all_infos),
    "Host.getAllTasks": Verb(_all_tasks),
    "Task.getStatus": Verb(_task_status, _TASK),
    "Task.getInfo": Verb(_task_info, _TASK),
    "Task.stop": Verb(_task_stop, _TASK),
    "Task.revert": Verb(_task_revert, _TASK),
    "Task.clear": Verb(_task_clear, _TASK),
    "Image.delete": Verb(_image_delete, _IMAGE, ("postZero", "force"), ("discard",)),
    "Volume.create": Verb(
        _volume_create,
        _VOLUME,
        ("size", "volFormat", "preallocate", "diskType", "desc", "srcImgUUID", "srcVolUUID"),
        ("initialSize", "addBitmaps", "legal", "sequence", "bitmap"),
    ),
    "Volume.copy": Verb(
        _volume_copy,
        _VOLUME,
        (
            "dstSdUUID",
            "dstImgUUID",
            "dstVolUUID",
            "desc",
            "volType",
            "volFormat",
            "preallocate",
            "postZero",
            "force",
        ),
        ("discard",),
    ),
    "StoragePool.getSpmStatus": Verb(_spm_status, _POOL),
    "StoragePool.spmStart": Verb(
        _spm_start,
        _POOL,
        ("prevID", "prevLver", "enableScsiFencing"),
        ("maxHostID", "domVersion"),
    ),
    "StoragePool.spmStop": Verb(_spm_stop, _POOL),
    "StoragePool.connect": Verb(
        _pool_connect,
        _POOL,
        ("hostID", "scsiKey"),
        ("masterSdUUID", "masterVersion", "domainDict"),
    ),
    "StoragePool.disconnect": Verb(_pool_disconnect, _POOL, ("hostID", "scsiKey"), ("remove",)),
    "StorageDomain.getImages": Verb(_domain_images, _DOMAIN, (), ("storagepoolID",)),
    "VM.hibernate": Verb(_vm_hibernate, _VM, ("hibernationVolHandle",)),
    "VM.snapshot": Verb(
        _vm_snapshot,
        _VM,
        ("snapDrives",),
        ("snapMemory", "frozen", "jobUUID", "timeout", "freeze_timeout"),
    ),
}


async def perform(host: Host, method: str, params: object, correlation_id: str | None) -> str:
    """Execute a verb; returns its result as JSON text, raises the fault that it answers."""
    verb = VERBS.get(method)
    if verb is None:
        raise errors.unknown_method(method)
    named = bind(method, verb, params)
    try:
        result = await verb.handler(Call(host, method, named, correlation_id))
    except errors.VdsmFault:
        raise
    except Exception as error:
        raise errors.general(str(error)) from error
    return result.text if isinstance(result, RawJson) else json.dumps(result)
