"""Writes ``docs/benchmarks.md`` and its charts from the JSON in ``bench/results``.

``python -m bench.report`` writes the page again without measuring anything.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench.chart import bars, curves

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DOCS = ROOT / "docs"
Sample = dict[str, Any]

HEAD = """# Benchmarks

What a command costs on pyatm, beside the least that any program would have to write and beside
what one would pick instead. This page is written by a program from `bench/results/*.json`; do not
edit it. Machines differ and are noisy, so look at the ratios: each one is taken within a round, in
which all subjects ran one after the other, and the median of the rounds is shown, with the lowest
and the highest in brackets.

## The workload

One command is a root with 4 tasks of about 200 bytes of parameters and 8 entity associations. It
is planned, its 4 tasks get VDSM's ids one at a time, they are reported over, the final step runs
once when all 4 are over, and the rows go. Submitters work in a closed loop: pyatm and the queues
may have 128 commands open in all; DBOS 4 per submitter, because each open workflow holds threads;
the floor and ovirt-engine's way take one command after the other to its end.

* floor: the same writes by plain SQL, prepared, without any rule, check or history, in 8
  transactions: 1 insert of everything, 4 binds, 1 status update, 1 claim, 1 delete. floor-min does
  it in 4.
* pyatm: the functions of schema `atm`, called one by one with psycopg; a poller and a runner of
  endActions with a connection each. Its history is written too.
* pgqueuer, pgmq, procrastinate: a job per task and one for the final step. They have no join, so
  the obvious one is written by hand: a counter in a table of its own, decremented in the job's
  transaction where the library allows it. It is simpler than what would be correct, because a job
  that runs twice decrements it twice. A task's first transaction stores VDSM's id, as in all
  subjects; pgmq-unbound leaves that out, to show what it costs.
* absurd: a parent task that waits for one event of each of 4 child tasks, which store VDSM's id as
  a step. DBOS: a workflow with 4 child workflows, each with such a step.
* ovirt-engine: its tables and its sequence of calls, re-created from what its database shows, with
  one write per state change: 44 calls, 52 round trips, 32 writing transactions. The engine itself
  was seen to make 116 round trips.

Client and server share the machine. Processor time counts all of both: threads of the client, all
processes of the server. Round trips and transactions are counted on the wire by a proxy, in runs
of their own, and those runs measure WAL too, without full-page images; they count everything that
a subject does while it runs, its polling and listening too. fsync is on everywhere, and full-page
images are written as in production wherever speed is measured.
"""


def page(results: dict[str, Any]) -> str:
    """The text of the page.

    Args:
        results: the JSON of each file of `bench/results`, by its name without suffix.
    """
    parts = [HEAD]
    if compare := results.get("compare"):
        parts += [_compared(compare), _calls(compare)]
    if growth := results.get("growth"):
        parts.append(_growth(growth))
    if bloat := results.get("bloat"):
        parts.append(_bloat(bloat))
    parts.append(AGAIN)
    return "\n".join(parts)


AGAIN = """## Measure it yourself

    make bench                                   # the first part of this page, about 13 minutes
    make bench ARGS='--only pyatm,pgmq --rounds 3'
    make bench ARGS=--resume                     # go on after an interruption
    make bench-growth                            # the curves, about 11 minutes
    make bench-bloat                             # sizes over 50 000 commands, about 2 minutes
    make bench-bloat ARGS='--commands 1000000'   # over a million, 30 to 60 minutes
    pyatm bench                                  # pyatm and the floor, on the embedded server

All but the last make an environment of their own in `.venv-bench`, use Debian's PostgreSQL where it
is installed and the embedded one elsewhere, and write this page anew. `python -m bench.report`
writes it from the stored results alone.
"""


def samples_of(compare: dict[str, Any], kind: str, submitters: int, subject: str) -> list[Sample]:
    """The good samples of one subject, by round."""
    return [
        sample
        for sample in compare["samples"]
        if (sample["kind"], sample["submitters"], sample["subject"]) == (kind, submitters, subject)
        and sample.get("commands")
    ]


def ratios(compare: dict[str, Any], submitters: int, subject: str) -> list[float]:
    """Commands per second relative to the floor's in the same round."""
    return _paired(compare, submitters, subject, lambda s: s["commands"] / s["seconds"])


def _paired(compare: dict[str, Any], submitters: int, subject: str, value: Any) -> list[float]:
    floor = {s["round"]: value(s) for s in samples_of(compare, "run", submitters, "floor")}
    ours = samples_of(compare, "run", submitters, subject)
    return [value(s) / floor[s["round"]] for s in ours if floor.get(s["round"])]


def cpu(sample: Sample) -> float:
    """Milliseconds per command, client and server."""
    return (sample["client_cpu"] + sample["server_cpu"]) / sample["commands"] * 1000


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _compared(compare: dict[str, Any]) -> str:
    machine = compare["machine"]
    lines = [
        "## Side by side",
        "",
        (
            f"Measured {compare['measured']} by `{compare['command']}`: {compare['rounds']} rounds of"
            f" {compare['seconds']:g} s each, PostgreSQL {machine['postgresql']}, Python"
            f" {machine['python']}, psycopg {machine['psycopg']}, {machine['cores']} cores"
            f" ({machine['processor']}), Linux {machine['kernel']}, load {machine['load_at_start']} at"
            " the start."
        ),
        "",
        "![commands per second relative to the floor](benchmarks.svg)",
    ]
    for submitters in (8, 1):
        lines += [
            "",
            f"### {submitters} submitter{'s' if submitters > 1 else ''}",
            "",
            (
                "| | commands/s, relative to the floor | commands/s | CPU per command |"
                " relative | round trips | transactions | WAL per command |"
            ),
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(compare, submitters, name) for name in compare["subjects"]]
    versions = [
        f"{name} {about['version']} ({about['what']})"
        if about["version"]
        else f"{name} ({about['what']})"
        for name, about in compare["subjects"].items()
    ]
    lines += ["", "Subjects: " + "; ".join(versions) + "."]
    for name, about in compare["subjects"].items():
        if "error" in about:
            lines += ["", f"{name} was left out: {about['error']}"]
    return "\n".join(lines) + "\n"


def _row(compare: dict[str, Any], submitters: int, name: str) -> str:
    runs = samples_of(compare, "run", submitters, name)
    if not runs:
        return f"| {name} | failed | | | | | | |"
    rate = median(s["commands"] / s["seconds"] for s in runs)
    costs = _paired(compare, submitters, name, cpu)
    cells = [
        name,
        _spread(ratios(compare, submitters, name)),
        f"{rate:.0f}",
        f"{median(cpu(s) for s in runs):.1f} ms",
        f"{median(costs):.2f}" if costs else "-",
    ]
    if counted := samples_of(compare, "count", submitters, name):
        per = {
            key: median(s[key] / s["commands"] for s in counted)
            for key in ("round_trips", "transactions", "wal")
        }
        cells += [f"{per['round_trips']:.1f}", f"{per['transactions']:.1f}"]
        cells += [f"{per['wal'] / 1000:.1f} kB"]
    else:
        cells += ["-"] * 3
    return "| " + " | ".join(cells) + " |"


def _calls(compare: dict[str, Any]) -> str:
    if "calls" not in compare:
        return ""
    calls, idle = compare["calls"], compare["ready_to_claimed_ms"]
    plan, report = calls["plan_1000"], calls["report_poll"]
    lines = [
        "## Single calls",
        "",
        "| | pyatm | beside | ratio |",
        "|---|---|---|---|",
        (
            f"| plan with {plan['tasks']} tasks | {plan['plan_ms']:.1f} ms | insert of the same rows"
            f" {plan['insert_ms']:.1f} ms | {plan['ratio_to_insert']:.2f} |"
        ),
        (
            f"| report of {report['tasks']} running tasks, nothing changed |"
            f" {report['unchanged_ms']:.1f} ms | `jsonb_each` over the same JSON"
            f" {report['jsonb_each_ms']:.1f} ms | {report['ratio_to_jsonb_each']:.2f} |"
        ),
        f"| the same with {report['changes']} changes | {report['changed_ms']:.1f} ms | | |",
    ]
    lines += [_lookup_row(live, found) for live, found in calls["lookup"].items()]
    lines += [
        (
            f"| idle system, report committed to endAction claimed | p50 {idle['p50']:.1f} ms, p99"
            f" {idle['p99']:.1f} ms | the smallest durable commit, p50 {idle['commit_p50']:.1f} ms | |"
        ),
        "",
        (
            f"The unchanged report wrote {report['task_rows_written']} task rows. The claim is a"
            " durable commit itself, made by the engine's own runner, which sleeps until NOTIFY wakes it."
        ),
    ]
    return "\n".join(lines) + "\n"


def _lookup_row(live: str, found: dict[str, float]) -> str:
    return (
        f"| what runs on an entity, {int(live):,} live tasks | {found['lookup_ms']:.3f} ms |"
        f" bare index probe {found['index_probe_ms']:.3f} ms |"
        f" {found['ratio_to_index_probe']:.2f} |"
    )


def _growth(growth: dict[str, Any]) -> str:
    lines = [
        "## How cost grows",
        "",
        (
            f"Measured {growth['measured']} by `{growth['command']}`, PostgreSQL"
            f" {growth['machine']['postgresql']} with {growth['shared_buffers']} of shared buffers. Commands per second"
            f" are those of 8 submitters for {growth['seconds']:g} s; the floor ran right before each"
            " of them on the same database, with as many live rows of its own."
        ),
        "",
        "![how cost grows](benchmarks-growth.svg)",
    ]
    if growth.get("live"):
        lines += [
            "",
            "| live tasks | lookup p50 | bare index probe p50 | ratio |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {point['tasks']:,} | {point['lookup_ms']:.3f} ms | {point['index_probe_ms']:.3f} ms"
            f" | {point['ratio_to_index_probe']:.2f} |"
            for point in growth["live"]
        ]
    for key, title in (
        ("under_load", "live tasks of other commands"),
        ("pools", "pools"),
        ("history", "rows in the history"),
        ("submitters", "submitters"),
    ):
        if growth.get(key):
            lines += [
                "",
                f"| {title} | commands/s | relative to the floor | CPU per command | relative |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {point['size']:,} | {point['rate']:.0f} | {point['rate'] / point['floor_rate']:.2f}"
                f" | {point['cpu_ms']:.1f} ms | {point['cpu_ms'] / point['floor_cpu_ms']:.2f} |"
                for point in growth[key]
            ]
    return "\n".join(lines) + "\n"


def _bloat(bloat: dict[str, Any]) -> str:
    points = bloat["points"]
    tables = list(points[-1]["live"])
    lines = [
        "## Size over many commands",
        "",
        (
            f"Measured {bloat['measured']} by `{bloat['command']}`, PostgreSQL"
            f" {bloat['machine']['postgresql']}, autovacuum as PostgreSQL comes:"
            f" {points[-1]['commands']:,} commands in {points[-1]['seconds'] / 60:.0f} minutes, about {bloat['open']} open at any"
            " time. Sizes in kB, tables with their indexes; the history is meant to grow."
        ),
        "",
        _working_set(bloat),
        "",
        "![sizes of the live tables](benchmarks-bloat.svg)",
        "",
        "| commands | " + " | ".join(tables) + " | all live tables | history |",
        "|---" * (len(tables) + 3) + "|",
    ]
    for point in points:
        sizes = [f"{point['live'][table] / 1024:,.0f}" for table in tables]
        both = [sum(point["live"].values()) / 1024, point["history"] / 1024]
        cells = [f"{point['commands']:,}", *sizes, *(f"{size:,.0f}" for size in both)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _working_set(bloat: dict[str, Any]) -> str:
    """Autovacuum comes once a minute; until then nothing that was deleted is used again."""
    points = bloat["points"]
    first, last = points[0], points[-1]
    each = sum(first["live"].values()) / first["commands"]
    per_minute = last["commands"] / last["seconds"] * 60
    largest = max(sum(point["live"].values()) for point in points)
    half = points[len(points) // 2 :]
    smallest_late, largest_late = (
        most(sum(point["live"].values()) for point in half) for most in (min, max)
    )
    return (
        f"Before autovacuum has come for the first time, a command leaves {each / 1024:.1f} kB in the live tables. It"
        f" comes once a minute (`autovacuum_naptime`), and here that is {per_minute:,.0f} commands: a working set of"
        f" {each * per_minute / 2**20:,.0f} MB. The live tables were never larger than {largest / 2**20:,.0f} MB,"
        f" {largest / (each * per_minute):.1f} times that, and {smallest_late / 2**20:,.0f} to"
        f" {largest_late / 2**20:,.0f} MB in the second half of the run. The rows that live at one moment, freshly"
        f" written, need {sum(bloat['packed'].values()) / 2**20:,.1f} MB: a system with a tenth of the commands has a"
        " tenth of the size."
    )


def charts(results: dict[str, Any]) -> dict[str, str]:
    """SVG by file name."""
    made: dict[str, str] = {}
    if compare := results.get("compare"):
        groups = {
            name: [
                median(found) if (found := ratios(compare, submitters, name)) else 0.0
                for submitters in (8, 1)
            ]
            for name in compare["subjects"]
        }
        made["benchmarks.svg"] = bars(
            "Commands per second relative to the floor", groups, ["8 submitters", "1 submitter"]
        )
    if growth := results.get("growth"):
        lines = {
            title: [(point["size"], point["rate"] / point["floor_rate"]) for point in growth[key]]
            for key, title in (
                ("under_load", "live tasks of other commands"),
                ("pools", "pools"),
                ("history", "rows in the history"),
                ("submitters", "submitters"),
            )
            if growth.get(key)
        }
        made["benchmarks-growth.svg"] = curves(
            "Commands per second relative to the floor, over the number of ...",
            lines,
            logarithmic=True,
        )
    if bloat := results.get("bloat"):
        points = bloat["points"]
        made["benchmarks-bloat.svg"] = curves(
            "kB of the live tables, indexes included, over commands",
            {
                table: [(p["commands"], p["live"][table] / 1024) for p in points]
                for table in points[-1]["live"]
            },
            logarithmic=False,
        )
    return made


def read(results: Path) -> dict[str, Any]:
    """The JSON of a directory by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}


def write(results: Path = RESULTS, docs: Path = DOCS) -> Path:
    """Write the page and its charts.

    Args:
        results: directory of the JSON files.
        docs: where to.

    Returns:
        The page's path.
    """
    found = read(results)
    target = docs / "benchmarks.md"
    docs.mkdir(parents=True, exist_ok=True)
    target.write_text(page(found))
    for name, text in charts(found).items():
        (docs / name).write_text(text)
    return target


if __name__ == "__main__":
    print(write())
