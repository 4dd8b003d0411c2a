"""JSON-RPC 2.0 bodies: one request object per frame, and what may come back.

VDSM's request dispatcher dies for every client of the host when it meets a request without an id,
so this module has one way to write a request: a single object, with a text id, never a batch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from pyatm.vdsm.errors import Json, MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_LIMIT: Final = 10_000  # characters of an error text that are kept


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to the request ``request_id`` (None: VDSM could not tell which one).

    :param result: JSON text of the result, checked to be well-formed; None when it is an error.
    :param code: error code. None together with ``result`` None: an answer of no known shape.
    :param message: error text, shortened to ``MESSAGE_LIMIT`` characters.
    """

    request_id: str | None
    result: bytes | None = None
    code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """A notification of VDSM, such as a change of a VM's state."""

    method: str


class _Envelope(msgspec.Struct):
    jsonrpc: str
    id: str | int | float | bool | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    method: str | None = None


# A pair of surrogates, or any other escape.
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\."
)
_LONE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
NUL: Final = re.compile(rb"\\u0000")

# Checks the whole text but builds no objects for the result: 16 MB take about 10 ms.
_DECODER: Final = msgspec.json.Decoder(_Envelope)


def request(method: str, params: Mapping[str, Json], request_id: str) -> bytes:
    """The body of a request.

    Raises ``ValueError`` for an empty method or id and for what JSON cannot hold.
    """
    if not method or not request_id:
        raise ValueError("a request needs a method and an id")
    body = {"jsonrpc": "2.0", "method": method, "params": dict(params), "id": request_id}
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{method}: params cannot be sent as JSON: {error}") from None


def message(body: bytes) -> Answer | Event:
    """What VDSM says in ``body``.

    Raises :class:`MalformedMessageError` for what is not one JSON-RPC 2.0 object. (A list can only
    answer a batch, and we send none.)
    """
    try:
        envelope = _decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"not a JSON-RPC 2.0 object: {error}") from None
    if envelope.jsonrpc != "2.0":
        raise MalformedMessageError(f"JSON-RPC version {envelope.jsonrpc[:20]!r} is not 2.0")
    if envelope.method is not None:
        return Event(envelope.method)
    # Our ids are texts: another kind of id is somebody else's and matches nothing.
    request_id = None if envelope.id is None else str(envelope.id)
    error = _raw(envelope.error)
    if error is None or error == b"null":
        return Answer(request_id, result=_raw(envelope.result))
    return _refusal(request_id, error)


def value(result: str) -> Json:
    """The Python value of a result's JSON text (linear, but not in steps: 16 MB take 0.1 s)."""
    return json.loads(result)


def without(unwanted: re.Pattern[bytes], text: bytes) -> bytes:
    r"""``text`` with the JSON escapes that ``unwanted`` matches replaced by ``\ufffd``."""
    # Whole escapes are matched, so that the second half of an escaped backslash starts none.
    return _ESCAPE.sub(lambda m: rb"\ufffd" if unwanted.fullmatch(m[0]) else m[0], text)


def _decode(body: bytes) -> _Envelope:
    try:
        return _DECODER.decode(body)
    except msgspec.DecodeError:
        # VDSM's encoder writes lone surrogates for file names that are not UTF-8. One such name
        # in the message of one task must not make all tasks unreadable.
        if rb"\ud" not in body.lower():
            raise
        return _DECODER.decode(without(_LONE_SURROGATE, body))


def _raw(field: msgspec.Raw | msgspec.UnsetType) -> bytes | None:
    return None if isinstance(field, msgspec.UnsetType) else bytes(field)


def _refusal(request_id: str | None, error: bytes) -> Answer:
    try:
        fields = value(error.decode())
    except (ValueError, RecursionError):
        return Answer(request_id)
    if not isinstance(fields, dict):
        return Answer(request_id)
    code = fields.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        return Answer(request_id)
    return Answer(request_id, code=code, message=str(fields.get("message", ""))[:MESSAGE_LIMIT])
