"""The requests of a recording, and what its answers show."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyatm.vdsm.errors import FrameError
from pyatm.vdsm.stomp import CLIENT_COMMANDS, SERVER_COMMANDS, Decoder, Frame
from tests.protocol.comparison import body_of

if TYPE_CHECKING:
    from tests.protocol.recordings import Recording


@dataclass(slots=True)
class Request:
    """A recorded request, where it stands, and its answer if it has one."""

    index: int
    method: str
    params: Any
    sent: float
    answer: int | None = None


def requests_of(recording: Recording) -> dict[str, Request]:
    requests: dict[str, Request] = {}
    for index, event in enumerate(recording.events):
        if event.kind == "client" and event.data.startswith(b"SEND"):
            with contextlib.suppress(FrameError, ValueError):
                for frame in Decoder(CLIENT_COMMANDS).feed(event.data):
                    body: Any = json.loads(frame.body) if isinstance(frame, Frame) else None
                    for item in body if isinstance(body, list) else [body]:
                        if isinstance(item, dict) and item.get("method") and "id" in item:
                            requests[key_of(item["id"])] = Request(
                                index, str(item["method"]), item.get("params"), event.t
                            )
        elif event.kind == "server" and event.data.startswith(b"MESSAGE"):
            body = json_of(event.data)
            request = requests.get(key_of(body.get("id"))) if isinstance(body, dict) else None
            if request is not None and request.answer is None:
                request.answer = index
    return requests


def key_of(request_id: Any) -> str:
    return request_id if isinstance(request_id, str) else json.dumps(request_id)


def json_of(data: bytes) -> Any:
    (frame,) = Decoder(SERVER_COMMANDS).feed(data)
    return body_of(frame) if isinstance(frame, Frame) else None


def code_of(frame: Frame) -> int | None:
    body = body_of(frame)
    error = body.get("error") if isinstance(body, dict) else None
    return error["code"] if isinstance(error, dict) else None


def statuses_in(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    found = [value] if {"code", "message"} <= value.keys() and "error" not in value else []
    return found + [status for item in value.values() for status in statuses_in(item)]


def shows_end(data: bytes, task_id: str) -> bool:
    """Whether an answer shows that a spmStart is over."""
    body = json_of(data)
    if not isinstance(body, dict):
        return False
    error, result = body.get("error"), body.get("result")
    if isinstance(error, dict):
        return error["code"] == 656
    if isinstance(result, dict) and result.get("spmStatus") == "SPM":
        return True
    return any(
        task_id in (status.get("taskID"), status.get("id"))
        and status.get("taskState", status.get("state")) in ("finished", "recovered", "failed")
        for status in statuses_in(result)
    )
