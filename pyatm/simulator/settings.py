"""What a simulated VDSM is like; the defaults are VDSM's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyatm.simulator.plans import JobPlan
from pyatm.simulator.storage import Existence

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """One simulated host.

    Attributes:
        directory: the storage directory; simulators that share it share their storage.
        host: address to listen on.
        port: port for STOMP, 0: any free one.
        control_port: port for faults on demand, 0: any free one, None: no control port.
        host_id: id of this host in its pools (``spmId``).
        pools: storage pools that are connected from the start.
        spm: become SPM of them at every start.
        vms: VMs that run here, None: every VM does.
        plan: the course of the work of tasks.
        existence: which images and volumes exist for the verbs.
        seed: repeats ids and random durations, None: they differ each time.
        rpc_workers: verbs that are executed at the same time.
        rpc_queue: requests that may wait for such a worker before they get error 1100.
        task_threads: tasks that work at the same time.
        max_tasks: tasks that may wait before create verbs block.
        lock_timeout: seconds that a verb waits for a resource before error 851.
        spm_start_seconds: how long a spmStart task works; None: until it is told to end.
        transition_seconds: how long a task stays in short states such as ``aborting``.
        detection_seconds: how long a new connection may stay silent.
        poll_seconds: how often incoming heart-beats are checked when none are sent.
        starting_seconds: after each start every verb answers code 99 for that long.
        backlog: connections that may wait to be accepted.
        tls_directory: where ``ca.pem``, ``server-cert.pem`` and ``server-key.pem`` are; None:
            plain TCP.
    """

    directory: Path
    host: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = None
    host_id: int = 1
    pools: tuple[str, ...] = ()
    spm: bool = False
    vms: frozenset[str] | None = None
    plan: JobPlan = field(default_factory=JobPlan)
    existence: Existence = Existence.TRACKED
    seed: int | None = None
    rpc_workers: int = 8
    rpc_queue: int = 80
    task_threads: int = 10
    max_tasks: int = 500
    lock_timeout: float = 120.0
    spm_start_seconds: float | None = 0.1
    transition_seconds: float = 0.005
    detection_seconds: float = 10.0
    poll_seconds: float = 30.0
    starting_seconds: float = 0.0
    backlog: int = 5
    tls_directory: Path | None = None
