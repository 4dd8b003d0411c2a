"""Errors of the VDSM client, named for what the caller can do about them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class VdsmError(Exception):
    """Base of everything that :mod:`pyatm.vdsm` raises."""


class FrameError(VdsmError, ValueError):
    """VDSM would not accept these bytes as a frame; the connection is of no use any more."""


class UnknownCommandError(FrameError):
    """The first line is not a command that this side may receive."""


class BadHeaderError(FrameError):
    """A header without colon or name, with a raw colon, CR or NUL, or not in UTF-8."""


class BadEscapeError(FrameError):
    r"""A backslash that is not followed by ``n``, ``r``, ``c`` or a backslash."""


class BadContentLengthError(FrameError):
    """``content-length`` is not a decimal number, or no NUL follows that many bytes."""


class FrameTooLargeError(FrameError):
    """Headers or body exceed the limits of the decoder."""


class MalformedMessageError(FrameError):
    """The body of a frame is not a JSON-RPC 2.0 message."""


class ConnectError(VdsmError):
    """No usable connection to the host could be made; nothing was sent."""


class HostUnreachable(ConnectError):
    """The name does not resolve, or the connection was refused, reset or found no route."""


class ConnectTimeout(ConnectError):
    """The host did not complete TCP, TLS and STOMP set-up in time."""


class VersionRejected(ConnectError):
    """The peer did not accept STOMP 1.2, or did not answer CONNECT as VDSM does."""


class TlsFilesError(ConnectError):
    """A certificate or key file is missing, unreadable or does not fit; the text names it."""


class TlsError(ConnectError):
    """The TLS set-up failed: no common version, or the peer does not speak TLS."""


class ServerNotTrusted(TlsError):
    """The host's certificate is not signed by the pinned CA, has expired or has another name."""


class ClientCertificateRefused(TlsError):
    """The host does not accept our certificate: missing, expired or from another CA.

    Under TLS 1.3 the handshake succeeds on our side all the same and the refusal shows only at
    the first read, at times as nothing more than the end of the stream.
    """


class ConnectionLost(VdsmError):
    """A connection that was in use ended: end of stream, reset, TLS error, or closed by us."""


class PeerSilent(ConnectionLost):
    """The host broke its heart-beat promise, or stopped in the middle of a frame."""


class ProtocolViolation(ConnectionLost):
    """The host sent something that is not STOMP or JSON-RPC; ``__cause__`` is the FrameError."""


class CallError(VdsmError):
    """Base of the three ways in which a call does not return a result.

    :param method: JSON-RPC method, for example ``Image.delete``.
    :param request_id: id of the request, the key under which a late answer would be settled.
    :param text: what happened.
    """

    def __init__(self, method: str, request_id: str, text: str) -> None:
        super().__init__(f"{method}: {text}")
        self.method = method
        self.request_id = request_id


class NotSent(CallError):
    """Not one byte of the request left this process: it is certain that nothing was executed."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """VDSM answered with a result."""

    value: T


class Unknown(CallError):
    """The request was sent and not answered: it may have been executed, or may yet be.

    ``__cause__`` says why the connection was lost; without it, the deadline passed.
    A creating verb that ends so must not be repeated. The answer may still come, over this
    connection or the next: ask :attr:`answer` or wait with :meth:`wait`.
    """

    def __init__(
        self,
        method: str,
        request_id: str,
        text: str,
        late: asyncio.Future[Answered[Json] | Refused] | None = None,
    ) -> None:
        super().__init__(method, request_id, text)
        self._late = late

    @property
    def answer(self) -> Answered[Json] | Refused | None:
        """The late answer, or None as long as there is none."""
        late = self._late
        return None if late is None or not late.done() or late.cancelled() else late.result()

    async def wait(self, timeout: float) -> Answered[Json] | Refused | None:
        """Wait up to ``timeout`` seconds for the late answer; None when it has not come.

        Returns at once when it can no longer come: the client was closed, or has forgotten the
        request (see ``ClientSettings.late_age``).
        """
        if self._late is not None:
            await asyncio.wait((self._late,), timeout=timeout)
        return self.answer


class BadAnswer(Unknown):
    """An answer came that is not of the documented shape, so nobody knows what was executed."""


class Refused(CallError):
    """VDSM answered with an error.

    :param code: VDSM's or JSON-RPC's error code.
    :param message: VDSM's text, as it came.
    """

    def __init__(self, method: str, request_id: str, code: int, message: str) -> None:
        super().__init__(method, request_id, f"{message} (code {code})")
        self.code = code
        self.message = message


class Starting(Refused):
    """99: VDSM lives but is not ready. Nothing was executed."""


class VmUnknown(Refused):
    """1: the virtual machine is not on this host."""


class PoolNotConnected(Refused):
    """309: this host is not connected to that storage pool."""


class TaskUnknown(Refused):
    """401: cleared, never existed, or not loaded yet because the host is not SPM."""


class RevertTooEarly(Refused):
    """403: a task that is not finished cannot be reverted."""


class TaskNotFinished(Refused):
    """410: the task is not in a state in which this is allowed, for example a clear too early."""


class StopPending(Refused):
    """411: the task is being stopped already; go on polling."""


class RevertImpossible(Refused):
    """441: the task was rolled back already, or its rollback failed."""


class NotSpm(Refused):
    """654: this host is not the SPM. Says nothing about any task."""


class SpmActive(Refused):
    """656: the host is the SPM already."""


class ResourceTimeout(Refused):
    """851: the verb waited 120 s for a lock; no task was made."""


class InvalidParameter(Refused):
    """1000: a parameter is malformed."""


class QueueFull(Refused):
    """1100: VDSM's request queue is full. Nothing was executed."""


class MethodUnknown(Refused):
    """-32601: this VDSM has no such method."""


_BY_CODE: Final[dict[int, type[Refused]]] = {
    1: VmUnknown,
    99: Starting,
    309: PoolNotConnected,
    401: TaskUnknown,
    403: RevertTooEarly,
    410: TaskNotFinished,
    411: StopPending,
    441: RevertImpossible,
    654: NotSpm,
    656: SpmActive,
    851: ResourceTimeout,
    1000: InvalidParameter,
    1100: QueueFull,
    -32601: MethodUnknown,
}


def refusal(method: str, request_id: str, code: int, message: str) -> Refused:
    """The error for VDSM's answer ``code``: the named class if it has one, else ``Refused``."""
    return _BY_CODE.get(code, Refused)(method, request_id, code, message)
