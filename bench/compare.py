"""All subjects side by side: ``make bench``, or ``python -m bench.compare --help``.

On a cluster of its own, in rounds: in each round every subject runs once with each number of
submitters, one after the other, so that what else the machine does meets all of them. Two more runs
of each count round trips, transactions and WAL: through a proxy on the wire, without full-page
images. What has been measured is written down at once, and ``--resume`` goes on from there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from bench.cluster import Cluster, end_cleanly, running
from bench.proxy import counting
from bench.report import DOCS, RESULTS, write
from bench.subjects import SUBJECTS
from pyatm.bench.idle import ready_to_claimed
from pyatm.bench.lifecycle import Lifecycle
from pyatm.bench.run import Size, probe_calls

SUBMITTERS = (1, 8)
TIMEOUT = 180.0
FILE = "compare.json"


def main() -> None:
    """Measure, write the JSON and the page."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5, help="paired runs (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (3)")
    parser.add_argument("--only", help="subjects, with commas between; the floor always runs")
    parser.add_argument("--resume", action="store_true", help="keep what was measured before")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the JSON")
    parser.add_argument("--docs", type=Path, default=DOCS, help="directory of the page")
    parser.add_argument("--directory", type=Path, help="where the cluster's files go")
    options = parser.parse_args()
    wanted = list(SUBJECTS)
    if options.only:
        chosen = {"floor", *options.only.split(",")}
        if unknown := chosen - set(SUBJECTS):
            parser.error(f"--only: {', '.join(sorted(unknown))}; known are {', '.join(SUBJECTS)}")
        wanted = [name for name in SUBJECTS if name in chosen]
    end_cleanly()
    options.results.mkdir(parents=True, exist_ok=True)
    _run(options, wanted)


def _run(options: argparse.Namespace, wanted: list[str]) -> None:
    path = options.results / FILE
    before = json.loads(path.read_text()) if options.resume and path.exists() else {}
    samples: list[dict[str, Any]] = before.get("samples", [])
    command = "make bench ARGS='" + " ".join(sys.argv[1:]) + "'" if sys.argv[1:] else "make bench"
    with running(options.directory) as cluster:
        answer: dict[str, Any] = {
            "command": command,
            "measured": datetime.now(UTC).isoformat(timespec="minutes"),
            "machine": machine(cluster),
            "seconds": options.seconds,
            "rounds": options.rounds,
            "subjects": {},
            "samples": samples,
        }

        def save() -> None:
            path.write_text(json.dumps(answer, indent=1) + "\n")

        failed = _set_up(cluster, wanted, answer)
        wanted = [name for name in wanted if name not in failed]
        plan = [
            (kind, number, submitters, name)
            for kind, rounds in (("run", options.rounds), ("count", 1))
            for number in range(rounds)
            for submitters in SUBMITTERS
            for name in wanted
        ]
        done = {(s["kind"], s["round"], s["submitters"], s["subject"]) for s in samples}
        plan = [one for one in plan if one not in done]
        began = time.monotonic()
        for index, (kind, number, submitters, name) in enumerate(plan):
            left = (time.monotonic() - began) / max(index, 1) * (len(plan) - index)
            _tell(
                f"[{index + 1}/{len(plan)}, {left / 60:.0f} min left] {kind} {number + 1},"
                f" {submitters} submitters: {name}"
            )
            # Without full-page images WAL depends on the workload, not on the last checkpoint.
            cluster.set("full_page_writes", "off" if kind == "count" else "on")
            sample = _measure(cluster, name, submitters, options.seconds, counted=kind == "count")
            key = {"kind": kind, "round": number, "submitters": submitters, "subject": name}
            samples.append({**key, **sample})
            save()
        if "pyatm" in wanted:
            _single_calls(cluster, answer)
        save()
    print(f"results: {path}; page: {write(options.results, options.docs)}")


def _set_up(cluster: Cluster, wanted: list[str], answer: dict[str, Any]) -> set[str]:
    failed: set[str] = set()
    for name in wanted:
        _tell(f"setting up {name}")
        cluster.create(name)
        done = _child(name, "--dsn", cluster.dsn(name), "--setup")
        what = SUBJECTS[name].what
        answer["subjects"][name] = {"what": what, "version": done.get("version", "")}
        if "error" in done:
            failed.add(name)
            answer["subjects"][name]["error"] = done["error"]
            _tell(f"  left out: {done['error']}")
    return failed


def _measure(
    cluster: Cluster, name: str, submitters: int, seconds: float, *, counted: bool
) -> dict[str, Any]:
    arguments = ["--meter-dsn", cluster.dsn(), "--postmaster", str(cluster.postmaster)]
    arguments += ["--submitters", str(submitters), "--seconds", str(seconds)]
    if not counted:
        return _child(name, "--dsn", cluster.dsn(name), *arguments)
    with counting(cluster.directory) as (directory, counts):
        dsn = psycopg.conninfo.make_conninfo(cluster.dsn(name), host=str(directory))
        return _child(name, "--dsn", dsn, "--counts", str(counts), *arguments)


def _child(name: str, *arguments: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.one", name, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end within {TIMEOUT:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    lines = done.stderr.strip().splitlines()
    _tell(f"  {name} failed: {lines[-1] if lines else done.returncode}")
    return {"error": lines[-1] if lines else f"exit code {done.returncode}"}


def _single_calls(cluster: Cluster, answer: dict[str, Any]) -> None:
    _tell("idle: from ready to claimed")
    cluster.set("full_page_writes", "on")
    cluster.create("calls")
    dsn = cluster.dsn("calls")
    for name in ("floor", "pyatm"):
        SUBJECTS[name].setup(dsn)
    answer["ready_to_claimed_ms"] = ready_to_claimed(dsn, Lifecycle(dsn), 200)
    answer["calls"] = probe_calls(dsn, Size(), _tell)


def machine(cluster: Cluster) -> dict[str, Any]:
    """What it was measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "postgresql": cluster.version,
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "cores": os.cpu_count(),
        "processor": model,
        "kernel": platform.release(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
