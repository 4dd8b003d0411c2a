"""The engine needs no rights beyond those of atm_engine; the inventory is made by somebody else."""

import psycopg
import pytest

from tests.cli.programs import Program
from tests.flows.agreement import settle_and_judge
from tests.flows.stage import Stage


def test_an_engine_that_finds_no_inventory_says_how_to_make_one(stage: Stage) -> None:
    stage.db.execute("drop schema pyatm_inventory cascade")
    with stage.engine() as engine:
        assert engine.finish() == 1
        assert "pyatm db inventory" in engine.all("error")[0]["message"]
    for _ in range(2):
        made = Program({"PYATM_DSN": stage.dsn}).run("db", "inventory")
        assert made.returncode == 0, made.stderr
    stage.run("remove-vm", disks=1)
    settle_and_judge(stage)


def test_the_stage_runs_engines_as_atm_engine(stage: Stage) -> None:
    with psycopg.connect(stage.engine_dsn, autocommit=True) as session:
        row = session.execute("select current_user").fetchone()
        assert row == ("atm_engine",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("create schema mine")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("create table pyatm_inventory.mine ()")
