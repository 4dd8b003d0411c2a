"""`pyatm bench` runs and prints what it promises; its figures are nobody's business here."""

from tests.cli.printed import printed
from tests.cli.programs import Program


def test_bench_prints_the_ratios_of_one_run_as_json() -> None:
    done = Program().run("bench", "--tiny", "--json", timeout=300)
    assert done.returncode == 0, done.stderr
    answer = printed("bench", done.stdout)
    assert set(answer) == {"workload", "lookup", "report_poll", "plan_1000"}
    assert set(answer["workload"]) == {"submitters_1", "submitters_8"}
    for figures in answer["workload"].values():
        # A short look on a busy machine: a command may be planned before it and end in it.
        assert figures["ratio_to_floor"] >= 0
        assert figures["cpu_ratio"] >= 0
        assert figures["transactions"] > 0
        assert figures["round_trips"] >= figures["transactions"]
        assert figures["wal_bytes"] > 0
        assert {"p50", "p99"} <= set(figures["ready_to_claimed_ms"])
    assert answer["report_poll"]["task_rows_written"] == 0
    assert answer["plan_1000"]["ratio_to_insert"] > 0
    assert all(found["ratio_to_index_probe"] > 0 for found in answer["lookup"].values())
