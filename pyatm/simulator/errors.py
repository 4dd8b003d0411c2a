"""What VDSM answers when it refuses: codes and message texts of its error objects."""

from __future__ import annotations

from typing import Final


class VdsmFault(Exception):  # noqa: N818 - VDSM's word for an error on the wire
    """An error object of an answer.

    Args:
        code: VDSM's number.
        message: the whole text of the ``message`` member.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StorageFault(VdsmFault):
    """An error of the storage layer: a task whose work raises one keeps its code."""


STORAGE_MESSAGES: Final[dict[int, str]] = {
    201: "Volume does not exist: ()",
    205: "Error creating a new volume: ('Cannot allocate the volume',)",
    256: "Could not remove all image's volumes: ('could not remove all volumes',)",
    261: "low level Image copy failed: ()",
    268: "Image does not exist in domain: ()",
    358: "Storage domain does not exist: ()",
    443: "Action was stopped: ()",
    651: "Cannot obtain lock: ()",
}
"""Texts of storage errors that a caller may inject by their code alone."""

INVALID_JSON: Final = (
    "Invalid JSON was received by the server. "
    "An error occurred on the server while parsing the JSON text."
)


def storage_fault(code: int, message: str | None = None) -> StorageFault:
    """The storage error ``code``, with VDSM's usual text unless ``message`` gives another."""
    return StorageFault(code, message or STORAGE_MESSAGES.get(code, "Storage error: ()"))


def parse_error() -> VdsmFault:
    return VdsmFault(-32700, INVALID_JSON)


def invalid_request(request: object, reason: str) -> VdsmFault:
    return VdsmFault(-32600, f"Invalid request: { ({'request': request, 'reason': reason})!r}")


def unknown_method(method: object) -> VdsmFault:
    return VdsmFault(
        -32601, f"The method does not exist or is not available: { ({'method': method})!r}"
    )


def internal_error(reason: str | None = None) -> VdsmFault:
    text = "Internal JSON-RPC error"
    return VdsmFault(-32603, text if reason is None else f"{text}: { ({'reason': reason})!r}")


def vm_unknown(vm_id: str) -> VdsmFault:
    return VdsmFault(1, f"Virtual machine does not exist: { ({'vmId': vm_id})!r}")


def starting() -> VdsmFault:
    return VdsmFault(99, "Recovering from crash or Initializing")


def general(text: str) -> VdsmFault:
    """An exception that no verb expected."""
    return VdsmFault(100, text)


def volume_unknown(volume_id: str) -> StorageFault:
    return StorageFault(201, f"Volume does not exist: {(volume_id,)!r}")


def image_unknown(image_id: str, domain_id: str) -> StorageFault:
    return StorageFault(
        268, f"Image does not exist in domain: {f'image={image_id}, domain={domain_id}'!r}"
    )


def domain_unknown(domain_id: str) -> StorageFault:
    return StorageFault(358, f"Storage domain does not exist: {(domain_id,)!r}")


def pool_unknown(pool_id: str) -> StorageFault:
    return StorageFault(309, f"Unknown pool id, pool not connected: {(pool_id,)!r}")


def task_unknown(task_id: str) -> StorageFault:
    return StorageFault(401, f"Task id unknown: {(task_id,)!r}")


def task_not_finished(state: str) -> StorageFault:
    text = f"can't rollback in state {state}"
    return StorageFault(403, f"Task not finished: {(text,)!r}")


def task_not_cleanable(state: str) -> StorageFault:
    text = f"can't clean in state {state}"
    return StorageFault(410, f"Operation is not allowed in this task state: {(text,)!r}")


def add_task_refused(*arguments: str) -> VdsmFault:
    """Not an error of the storage layer: a task whose work raises it ends with code 100."""
    return VdsmFault(405, f"TaskManager error, unable to add task: {arguments!r}")


def task_aborted(task_id: str) -> StorageFault:
    return StorageFault(411, f"Task is aborted: {f'value={task_id} abortedcode=411'!r}")


def wrong_transition(old: str, new: str) -> StorageFault:
    text = f"from {old} to {new}"
    return StorageFault(441, f"cannot move task to requested state: {(text,)!r}")


def not_spm(*pool_ids: str) -> StorageFault:
    return StorageFault(654, f"Not SPM: {pool_ids!r}")


def not_spm_to_stop() -> StorageFault:
    return StorageFault(654, "Not SPM")


def spm_active(pool_id: str) -> StorageFault:
    return StorageFault(656, f"Operation not allowed while SPM is active: {(pool_id,)!r}")


def resource_timeout() -> StorageFault:
    return StorageFault(851, "Resource timeout: ()")


def invalid_parameter(name: str, value: object) -> StorageFault:
    return StorageFault(1000, f"Invalid parameter: {f'{name}={value}'!r}")


def too_many_requests(waiting: int) -> VdsmFault:
    details = {"resource": "jsonrpc", "current_tasks": waiting, "reason": "Too many tasks"}
    return VdsmFault(1100, f"Not enough resources: {details!r}")
