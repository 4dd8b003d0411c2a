"""What Prometheus reads, what it alerts on, and what the dashboard shows."""

import json
import re
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyatm.poller.metrics import Metrics
from pyatm.simulator.process import SimulatorProcess
from tests.conftest import Connection
from tests.poller.stage import UNTIL_TOLD, PollerProcess, Stage, until

Running = Callable[..., Any]
PACKAGING = Path(__file__).parents[2] / "packaging"
ALERTS = PACKAGING / "prometheus" / "alerts.yml"
DASHBOARD = PACKAGING / "grafana" / "pyatm.json"
# Every other word of our expressions is a metric or a label.
FUNCTIONS = {
    "sum",
    "max",
    "count",
    "rate",
    "increase",
    "absent",
    "vector",
    "histogram_quantile",
    "and",
    "or",
}
EVERY_TARGET_HAS = {"up"}


def page(poller: PollerProcess) -> dict[str, float]:
    """The metrics page, by name and labels."""
    port = poller.facts["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


async def test_the_metrics_page_counts_polls_requests_and_connections(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    host = running(SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True))
    stage.pool(host, pool_id=pool)
    poller = running(stage.poller(PYATM_POLLER__METRICS_PORT="0"))
    command, _ = await stage.command(host, pool)
    await stage.ended(command, "succeeded")
    found = page(poller)
    assert found["pyatm_pools"] == 1
    assert found[f'pyatm_poll_age_seconds{{storage_pool_id="{pool}"}}'] >= 0
    assert found['pyatm_vdsm_requests_total{method="Task.clear",outcome="answered"}'] == 1
    assert found['pyatm_database_connections_total{purpose="listen"}'] == 1
    assert found['pyatm_database_connections_total{purpose="calls"}'] >= 1
    assert found['pyatm_wakeups_total{cause="notify"}'] >= 1
    stage.value(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where application_name = 'pyatm poller listen'"
    )
    listens = 'pyatm_database_connections_total{purpose="listen"}'
    await until(lambda: page(poller)[listens] == 2, "it listens again")


async def test_the_metrics_page_has_counts_and_ages_of_each_pool(
    stage: Stage, running: Running
) -> None:
    stage.set("in_doubt_settle", "1 h")
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    poller = running(
        stage.poller(PYATM_POLLER__METRICS_PORT="0", PYATM_POLLER__METRICS_INTERVAL="0.2")
    )

    def figure(name: str, state: str) -> float:
        labels = f'pool="{pool}",state="{state}",storage_pool_id="{pool}"'
        return page(poller).get(f"{name}{{{labels}}}", -1)

    command, (lost, _) = stage.plan(pool, 2)
    stage.db.execute("select from atm.doubt_task(%s, %s, 'test')", [stage.epoch, lost])
    # A second task of this pool at VDSM that is bound to none.
    await stage.send(host, pool, stage.plan(pool)[1])
    await until(lambda: figure("atm_pool_tasks", "open") == 3, "three are open")
    await until(lambda: figure("atm_pool_tasks", "in_doubt") == 1, "one is in doubt")
    await until(lambda: figure("atm_pool_oldest_seconds", "in_doubt") > 0.5, "it gets older")
    assert figure("atm_pool_oldest_seconds", "open") > 0.5
    assert figure("atm_pool_tasks", "orphan") == 0
    assert stage.state(command) == "sealed"


@pytest.fixture
def known(db: Connection, metrics_of_a_poller: set[str]) -> set[str]:
    """The name of every metric that there is."""
    db.execute("select atm.set_pool(gen_random_uuid(), 'a', '[{\"address\": \"a\"}]')")
    of_database = {row[0] for row in db.execute("select distinct name from atm.metrics()")}
    return metrics_of_a_poller | of_database | EVERY_TARGET_HAS


@pytest.fixture
def metrics_of_a_poller() -> set[str]:
    names: set[str] = set()
    for family in Metrics().registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + ending for ending in endings.get(family.type, [""])}
    return names


def named(expression: str) -> Iterator[str]:
    """The metrics that an expression of PromQL names."""
    without_labels = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on) \([^)]*\)", "", expression)
    for word in re.findall(r"[A-Za-z_:][\w:]*", without_labels):
        if word not in FUNCTIONS:
            yield word


def test_the_dashboard_names_only_metrics_that_exist(known: set[str]) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) >= len(panels) > 10
    for expression in expressions:
        assert set(named(expression)) <= known, expression
        assert any(named(expression)), expression
    # And it leaves out none of the poller's own but two kinds of samples.
    shown = {name for expression in expressions for name in named(expression)}
    ours = {name for name in known if name.startswith("pyatm_")}
    left_out = {name for name in ours if name.endswith(("_sum", "_count"))}
    assert ours - shown == left_out | {"pyatm_open_tasks"}


def test_the_alerts_name_only_metrics_that_exist(known: set[str]) -> None:
    expressions = re.findall(r"expr: (?:>\n)?((?:.|\n)*?)\n +(?:for|labels):", ALERTS.read_text())
    assert len(expressions) == ALERTS.read_text().count("- alert:")
    for expression in expressions:
        assert set(named(expression)) <= known, expression


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_every_alert_fires_when_it_should() -> None:
    tested = set(re.findall(r"alertname: (\w+)", (ALERTS.parent / "alerts_test.yml").read_text()))
    assert tested == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=ALERTS.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_the_dashboard_is_valid_promql(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rules = [
        {"record": "r", "expr": target["expr"]} for panel in panels for target in panel["targets"]
    ]
    # JSON is YAML.
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
