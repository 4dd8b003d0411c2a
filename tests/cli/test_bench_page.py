"""The page of benchmarks says what the measurements say, and the wire is counted right."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.proxy import Answers
from bench.report import DOCS, RESULTS, charts, page, read


@pytest.mark.skipif(not RESULTS.exists(), reason="nothing has been measured in this checkout")
def test_the_page_of_benchmarks_is_what_the_measurements_give() -> None:
    results = read(RESULTS)
    assert (DOCS / "benchmarks.md").read_text() == page(results), "run: python -m bench.report"
    for name, text in charts(results).items():
        assert (DOCS / name).read_text() == text
        assert f"]({name})" in page(results)


def _sample(kind: str, name: str, commands: int, **more: float) -> dict[str, object]:
    sample = {"kind": kind, "round": 0, "submitters": 8, "subject": name, "commands": commands}
    sample |= {"seconds": 2.0, "client_cpu": 0.1, "server_cpu": 0.3, "wal": 0}
    return {**sample, "round_trips": 0, "transactions": 0, **more}


def test_a_subject_is_compared_with_the_floor_of_its_own_round() -> None:
    floor, ours = _sample("run", "floor", 200), _sample("run", "pyatm", 100)
    slow = [{**_sample("run", name, 20), "round": 1} for name in ("floor", "pyatm")]
    counted = _sample("count", "pyatm", 10, round_trips=60, transactions=50, wal=120_000)
    about = {"what": "", "version": ""}
    compare = {
        "measured": "today",
        "command": "make bench",
        "rounds": 2,
        "seconds": 2.0,
        "machine": dict.fromkeys(
            ("postgresql", "python", "psycopg", "cores", "processor", "kernel", "load_at_start")
        ),
        "subjects": {"floor": about, "pyatm": about, "gone": {**about, "error": "not to be had"}},
        "samples": [floor, ours, *slow, counted],
    }
    lines = page({"compare": compare}).splitlines()
    row = next(line for line in lines if line.startswith("| pyatm"))
    # 0.5 and 1 relative to the floor; 4 and 20 ms, twice and once the floor's.
    assert row == ("| pyatm | 0.75 (0.50 to 1.00) | 30 | 12.0 ms | 1.50 | 6.0 | 5.0 | 12.0 kB |")
    assert "gone was left out: not to be had" in lines
    assert "| gone | failed | | | | | | |" in lines


def test_sizes_are_compared_with_what_a_minute_of_commands_leaves() -> None:
    def point(commands: int, seconds: float, kilobytes: int) -> dict[str, object]:
        size = kilobytes * 2**10
        return {"commands": commands, "seconds": seconds, "live": {"task": size}, "history": size}

    bloat = {
        "measured": "today",
        "command": "make bench-bloat",
        "machine": {"postgresql": "15"},
        "open": 128,
        # 5 kB each, 30 000 in a minute: 146 MB; the largest reading is 293 MB.
        "points": [
            point(2_000, 4, 10_000),
            point(30_000, 60, 300_000),
            point(60_000, 120, 200_000),
        ],
        "packed": {"task": 2**20},
    }
    text = page({"bloat": bloat})
    assert "leaves 5.0 kB in the live tables" in text
    assert "30,000 commands: a working set of 146 MB" in text
    assert "never larger than 293 MB, 2.0 times that, and 195 to 293 MB in the second half" in text
    assert "freshly written, need 1.0 MB" in text


def test_curves_and_sizes_are_measured_and_written(tmp_path: Path) -> None:
    where = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path / "docs")]
    small = ["--live=40,80", "--pools=2", "--history=50", "--submitters=1", "--seconds=0.3"]
    for module, options in (
        ("bench.growth", small),
        ("bench.bloat", ["--commands=60", "--points=2"]),
    ):
        subprocess.run(
            [sys.executable, "-m", module, *options, *where],
            check=True,
            cwd=RESULTS.parent.parent,
            capture_output=True,
            timeout=300,
        )
    results = {
        name: json.loads((tmp_path / "results" / f"{name}.json").read_text())
        for name in ("growth", "bloat")
    }
    growth, bloat = results["growth"], results["bloat"]
    assert [point["tasks"] for point in growth["live"]] == [40, 80]
    for curve in ("submitters", "pools", "history", "under_load"):
        assert all(point["rate"] > 0 and point["floor_rate"] > 0 for point in growth[curve])
    assert bloat["points"][-1]["commands"] >= 60
    assert set(bloat["packed"]) == set(bloat["points"][0]["live"]) > {"root", "task", "hold"}
    assert (tmp_path / "docs" / "benchmarks.md").read_text() == page(read(tmp_path / "results"))


@pytest.mark.parametrize("cut", [1, 2, 5, 7, 1000])
def test_round_trips_are_counted_however_the_answers_are_cut(cut: int) -> None:
    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4) + body

    start = message(b"R", bytes(4)) + message(b"Z", b"I")
    row = message(b"D", b"Z\0\0\0\5I" * random.Random(cut).randint(1, 9))
    open_transaction = message(b"C", b"BEGIN\0") + message(b"Z", b"T")
    ended = message(b"1", b"") + row + message(b"C", b"COMMIT\0") + message(b"Z", b"I")
    stream = start + open_transaction + ended + ended
    answers = Answers()
    found = [answers.feed(stream[at : at + cut]) for at in range(0, len(stream), cut)]
    assert (sum(trips for trips, _ in found), sum(done for _, done in found)) == (3, 2)


def test_the_bench_directory_is_where_the_page_says(tmp_path: Path) -> None:
    assert (RESULTS.parent / "compare.py").exists()
    assert read(tmp_path) == {}
