"""Client of VDSM's JSON-RPC interface over STOMP.

One :class:`VdsmClient` per host::

    async with VdsmClient(Address("host1.example.org"), tls=TlsFiles(ca, cert, key)) as vdsm:
        spm = await vdsm.pool.get_spm_status(pool_id)
        statuses = await vdsm.host.get_all_tasks_statuses()  # .raw, .for_jsonb(), .parse()
        task_id = await vdsm.image.delete(image_id, pool_id=pool_id, domain_id=domain_id)

A call ends in one of these ways, at its deadline at the latest:

* it returns VDSM's result;
* :class:`Refused`: VDSM answered with an error. ``code`` and ``message`` are VDSM's; the codes that
  matter have subclasses (``NotSpm``, ``TaskUnknown``, ``StopPending``, ``Starting``, ...);
* :class:`NotSent`: the request certainly never left (no connection, too many in flight);
* :class:`Unknown`: it was sent and no answer came. It may have been executed, or may be yet. The
  client never repeats it. A late answer can be had from ``Unknown.answer``, ``await
  Unknown.wait(seconds)`` or the client's ``on_late_answer``.

``outcome(call)`` returns ``Answered | Refused | Unknown | NotSent`` instead of raising. Cancelling
a call is safe: its late answer still reaches ``on_late_answer``.

"Connected" does not mean that VDSM works: only answers do (``VdsmClient.state``).
"""

from pyatm.vdsm.client import ClientSettings, ClientState, Outcome, VdsmClient, outcome
from pyatm.vdsm.connection import Address, ConnectionSettings
from pyatm.vdsm.errors import (
    Answered,
    BadAnswer,
    CallError,
    ClientCertificateRefused,
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    FrameError,
    HostUnreachable,
    InvalidParameter,
    Json,
    MethodUnknown,
    NotSent,
    NotSpm,
    PeerSilent,
    PoolNotConnected,
    ProtocolViolation,
    QueueFull,
    Refused,
    ResourceTimeout,
    RevertImpossible,
    RevertTooEarly,
    ServerNotTrusted,
    SpmActive,
    Starting,
    StopPending,
    TaskNotFinished,
    TaskUnknown,
    TlsError,
    TlsFilesError,
    Unknown,
    VdsmError,
    VersionRejected,
    VmUnknown,
)
from pyatm.vdsm.link import Backoff
from pyatm.vdsm.requests import LateAnswer
from pyatm.vdsm.results import SpmStatus, TaskInfo, TaskStatus, TaskStatuses
from pyatm.vdsm.tls import TlsFiles
from pyatm.vdsm.verbs import HibernationVolumes, Sending

__all__ = [
    "Address",
    "Answered",
    "Backoff",
    "BadAnswer",
    "CallError",
    "ClientCertificateRefused",
    "ClientSettings",
    "ClientState",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "ConnectionSettings",
    "FrameError",
    "HibernationVolumes",
    "HostUnreachable",
    "InvalidParameter",
    "Json",
    "LateAnswer",
    "MethodUnknown",
    "NotSent",
    "NotSpm",
    "Outcome",
    "PeerSilent",
    "PoolNotConnected",
    "ProtocolViolation",
    "QueueFull",
    "Refused",
    "ResourceTimeout",
    "RevertImpossible",
    "RevertTooEarly",
    "Sending",
    "ServerNotTrusted",
    "SpmActive",
    "SpmStatus",
    "Starting",
    "StopPending",
    "TaskInfo",
    "TaskNotFinished",
    "TaskStatus",
    "TaskStatuses",
    "TaskUnknown",
    "TlsError",
    "TlsFiles",
    "TlsFilesError",
    "Unknown",
    "VdsmClient",
    "VdsmError",
    "VersionRejected",
    "VmUnknown",
    "outcome",
]
