"""The page of benchmarks says what the measurements say, and the wire is counted right."""

import random
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
