"""The table of mutants: what is taken away, and the rule of DESIGN.md that it stands for.

A text has to occur once, so that the table stays true while the code changes; `test_mutants.py`
sees to that. Tests are tried in the given order, until one fails.
"""

from __future__ import annotations

from dataclasses import dataclass

HARD = "tests/sql/test_hard_cases.py"
LIFE = "tests/sql/test_lifecycle.py"
RACES = "tests/sql/test_interleavings.py"
ORDER = "tests/sql/test_lock_order.py"
WALKS = "tests/stateful/test_machine.py::test_long_walks_through_the_same_moves_come_to_rest"
SEARCH = "tests/stateful/test_interleavings.py"
RULES = (WALKS, HARD, LIFE)
SUBMISSION = ("tests/flows/test_submission.py",)
LISTING = "tests/poller/test_listing.py"


@dataclass(frozen=True, slots=True)
class Edit:
    """One text replaced."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard taken away."""

    name: str
    rule: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


def mutant(
    name: str, rule: str, file: str, *texts: tuple[str, str], tests: tuple[str, ...] = RULES
) -> Mutant:
    """One whose texts are all in one file."""
    return Mutant(name, rule, tuple(Edit(file, old, new) for old, new in texts), tests)


LIVE = "migrations/0003.live-tables.sql"
READINESS = "sql/040_readiness.sql"
PLANNING = "sql/050_planning.sql"
ANNOUNCING = "sql/060_submission.sql"
ENGINE = "sql/070_engine.sql"
ENDING = "sql/080_end_action.sql"
ENTITIES = "sql/090_entities.sql"
POOLS = "sql/110_pools.sql"
REPORT = "sql/120_report_poll.sql"
UNKNOWNS = "sql/130_unknowns.sql"
ACTIONS = "sql/140_report_actions.sql"
OPERATOR = "sql/150_operator.sql"
SUBMIT = "pyatm/engine/submission.py"

COUNTED = "r.state = 'sealed' and r.open_tasks = x.closed"
ROWS_COUNTED = (
    "r.state = 'sealed' and not exists (select from atm_internal.task t"
    " where t.root_no = r.root_no and t.state <> 'done')"
)

MUTANTS = (
    # 4.1, 4.7, 4.8: locks and constraints.
    mutant(
        "tasks are not counted down",
        "4.1",
        READINESS,
        ("open_tasks = r.open_tasks - x.closed", "open_tasks = r.open_tasks"),
    ),
    mutant(
        "finished tasks are counted, roots not locked",
        "4.1",
        READINESS,
        ("order by r.root_no for no key update", "order by r.root_no"),
        *(
            (f"{column}= case when {COUNTED}", f"{column}= case when {ROWS_COUNTED}")
            for column in ("state      ", "outcome    ", "due_at     ", "ready_at   ")
        ),
        tests=(f"{RACES}::test_the_last_two_tasks_at_once_make_the_root_ready_once",),
    ),
    mutant(
        "roots are not locked before their tasks",
        "4.1 lock order",
        READINESS,
        ("order by r.root_no for no key update", "order by r.root_no"),
        tests=(ORDER, SEARCH, RACES),
    ),
    mutant(
        "admission without a constraint",
        "4.7",
        LIVE,
        (
            "constraint hold_admission exclude using spgist (slot with &&)",
            "constraint hold_admission check (true)",
        ),
        tests=(WALKS, f"{RACES}::test_one_of_two_commands_that_exclude_each_other_is_refused"),
    ),
    mutant(
        "two tasks may have one VDSM id",
        "3 vdsm_task_id unique",
        LIVE,
        ("create unique index task_vdsm_task_id", "create index task_vdsm_task_id"),
        tests=(f"{RACES}::test_one_of_two_binds_to_one_vdsm_id_is_refused",),
    ),
    mutant(
        "VDSM's id and the outcome may be written again",
        "3 write-once",
        LIVE,
        ("execute function atm_internal.refuse_rewrite();", "execute function suppress_redundant_updates_trigger();"),
        tests=(HARD,),
    ),
    mutant(
        "a report in a transaction older than its poll",
        "4.8",
        REPORT,
        ("elsif now() < p_started and", "elsif false and"),
        tests=(f"{RACES}::test_a_report_in_a_transaction_older_than_its_poll_is_told_to_repeat",),
    ),
    mutant(
        "what clears a task leaves its claimed root alone",
        "4.8",
        ENDING,
        (
            "     where r.root_no = x.root_no\n    returning r.root_no, r.uncleared",
            "     where r.root_no = x.root_no and r.state = 'ended'\n"
            "    returning r.root_no, r.uncleared",
        ),
        tests=(f"{RACES}::test_a_finish_in_a_transaction_older_than_a_clear_loses_no_clear",),
    ),
    mutant(
        "a plan does not lock its pools",
        "4.1 lock order",
        PLANNING,
        ("             for key share of p) l;", "             ) l;"),
        tests=("tests/sql/test_race_table.py",),
    ),
    # 4.6: epochs, leases, tokens.
    mutant(
        "a stale epoch is not refused",
        "4.6 epoch",
        "sql/010_errors.sql",
        ("select exists (select from atm_internal.engine e where e.epoch = p_epoch)", "select true"),
    ),
    mutant(
        "an engine writes tasks of another",
        "4.6 epoch",
        ANNOUNCING,
        ("where r.epoch is distinct from p_epoch\n   limit 1", "where t.task_id is null\n   limit 1"),
    ),
    mutant(
        "planned tasks survive their engine",
        "4.3 not_submitted at once",
        ENGINE,
        ("perform atm_internal.close_unbound(p_root_nos, null, '{planned}', 'not_submitted');", ""),
    ),
    mutant(
        "announced tasks of a gone engine stay submitting",
        "4.3 in doubt",
        ENGINE,
        ("where t.root_no = any (p_root_nos) and t.state in ('submitting', 'in_doubt');", "where false;"),
    ),
    mutant(
        "claims are not taken back",
        "4.6 start_engine",
        ENGINE,
        ("where r.root_no = any (p_root_nos) and r.state = 'ending';", "where false;"),
        tests=(HARD, WALKS),
    ),
    mutant(
        "open commands of a gone engine stay open",
        "4.6 start_engine",
        ENGINE,
        ("where r.root_no = any (p_root_nos) and r.state = 'open';", "where false;"),
    ),
    mutant(
        "a claim keeps the token of the one before",
        "4.6 token",
        ENDING,
        ("else nextval('atm_internal.stamp') end,", "else coalesce(r.token, nextval('atm_internal.stamp')) end,"),
        tests=(HARD, WALKS),
    ),
    mutant(
        "a claim takes what another holds",
        "4.6 lease of endAction",
        ENDING,
        ("where r.epoch = p_epoch and r.due_at <= v_now", "where r.epoch = p_epoch and r.due_at is not null"),
        tests=(HARD, WALKS),
    ),
    mutant(
        "endAction is tried for ever",
        "5 end_action_attempts",
        ENDING,
        ("state      = case when r.attempt >= v_attempts then 'end_failed'", "state      = case when false then 'end_failed'"),
        tests=(HARD, WALKS),
    ),
    mutant(
        "a poller without the lease reports",
        "4.6 lease",
        POOLS,
        ("elsif v_poll.token is distinct from p_token then", "elsif false then"),
    ),
    mutant(
        "a poller takes pools of others",
        "4.6 lease",
        POOLS,
        ("(x.lease_until < v_now or x.lease_until", "(true or x.lease_until"),
    ),
    # 4.2, 4.9: absence and listings.
    mutant(
        "a task bound after the poll began is absent",
        "4.2 poll start",
        REPORT,
        ("l.key is null and t.bound_at < p_started and", "l.key is null and"),
    ),
    mutant(
        "absence counts over SPM incarnations",
        "4.2 lver",
        REPORT,
        (
            "polls = case when w.lver = excluded.lver then w.polls + 1 else 1 end,\n"
            "    since = case when w.lver = excluded.lver then w.since else excluded.since end,",
            "polls = w.polls + 1,",
        ),
    ),
    mutant(
        "absent once is lost",
        "4.2 absence_polls",
        REPORT,
        ("and w.polls >= p_set.absence_polls and p_started - w.since", "and p_started - w.since"),
    ),
    mutant(
        "absence takes no time",
        "4.2 absence_time",
        REPORT,
        ("p_set.absence_polls and p_started - w.since >= p_set.absence_time;", "p_set.absence_polls;"),
    ),
    mutant(
        "a failed listing is an empty one",
        "4.2 failed listing",
        REPORT,
        (
            "v_poll := atm_internal.leased_pool(p_token, p_storage_pool_id);",
            "v_poll := atm_internal.leased_pool(p_token, p_storage_pool_id);"
            " p_statuses := coalesce(p_statuses, '{}');",
        ),
    ),
    mutant(
        "an old report is applied",
        "4.9",
        REPORT,
        (" or (p_started <= v_poll.polled_at and", " or (false and"),
    ),
    # 4.3: the reconcile barrier.
    mutant(
        "a doubt is settled at once",
        "4.3 in_doubt_settle",
        REPORT,
        ("and p_started >= w.since + p_set.in_doubt_settle", ""),
    ),
    mutant(
        "a doubt needs no polls",
        "4.3 absence_polls",
        REPORT,
        ("and w.lver = p_poll.lver and w.polls >= p_set.absence_polls", "and w.lver = p_poll.lver"),
    ),
    mutant(
        "a doubt counts polls over SPM incarnations",
        "4.3 lver",
        REPORT,
        (
            "polls = case when w.lver = p_poll.lver then w.polls + 1 else 1 end,\n"
            "    lver  = p_poll.lver",
            "polls = w.polls + 1,\n    lver  = p_poll.lver",
        ),
    ),
    mutant(
        "a doubt is settled by an SPM that has just come",
        "4.3 absence_time",
        REPORT,
        ("and p_started >= p_poll.lver_since + p_set.absence_time", ""),
        tests=(HARD, WALKS),
    ),
    mutant(
        "a doubt is settled beside an unfinished unknown",
        "4.3 unknowns",
        REPORT,
        ("and u.vdsm_state <> 'finished' and u.resolved_at is null);\n  if v_due_nos", "and false);\n  if v_due_nos"),
    ),
    # 4.4: unknowns.
    mutant(
        "an unknown is cleared while an engine may bind it",
        "4.4 suspects",
        UNKNOWNS,
        ("s.vdsm_task_id = u.vdsm_task_id and s.may_bind)", "s.vdsm_task_id = u.vdsm_task_id and false)"),
    ),
    mutant(
        "tasks in doubt are no suspects",
        "4.4 suspects",
        UNKNOWNS,
        ("(t.state in ('submitting', 'in_doubt') or", "(t.state = 'submitting' or"),
    ),
    mutant(
        "orphans are forgotten with a doubt that is settled",
        "4.4 orphans",
        REPORT,
        ("update atm_internal.unknown u set suspected = true", "update atm_internal.unknown u set suspected = false"),
        tests=(HARD, WALKS),
    ),
    mutant(
        "ghosts are left alone",
        "4.4 ghosts",
        UNKNOWNS,
        ("h.archived_at < p_started)", "false)"),
    ),
    mutant(
        "an orphan that may be bound can be resolved",
        "4.4 resolve_orphan",
        OPERATOR,
        ("where s.vdsm_task_id = p_vdsm_task_id and s.may_bind)", "where false)"),
    ),
    # 4.5: compensation.
    mutant(
        "compensation looks at our state",
        "4.5",
        ENTITIES,
        ("(t.vdsm_task_id is not null and t.cleared_at is null and t.vdsm_state is distinct from 'finished')", "t.state = 'running'"),
    ),
    mutant(
        "compensation does not wait for a doubt",
        "4.5",
        ENTITIES,
        ("w.kind in ('doubt', 'revert'))", "w.kind = 'revert')"),
    ),
    mutant(
        "compensation beside a revert",
        "4.5",
        ENTITIES,
        ("w.kind in ('doubt', 'revert'))", "w.kind = 'doubt')"),
    ),
    mutant(
        "an ended command is associated with nothing",
        "4.5",
        ENDING,
        ("elsif v_working then", "elsif false then"),
    ),
    mutant(
        "tasks are not associated with what ancestors name",
        "3 association",
        ENTITIES,
        ("or c.ancestors && (p_hold).command_nos", ""),
        tests=(HARD, WALKS),
    ),
    # 3: outcomes.
    mutant(
        "rolled back is a success",
        "3 succeeded",
        REPORT,
        (
            "when s.value ->> 'taskResult' = 'success' then 'succeeded'",
            "when s.value ->> 'taskResult' in ('success', 'cleanSuccess') then 'succeeded'",
        ),
    ),
    mutant(
        "an aborted command succeeds",
        "3 outcome",
        READINESS,
        ("when r.failed or x.failed or r.aborted then 'failed'", "when r.failed or x.failed then 'failed'"),
    ),
    mutant(
        "a command with a failed task succeeds",
        "3 outcome",
        READINESS,
        ("failed     = r.failed or x.failed,", "failed     = r.failed,"),
        ("when r.failed or x.failed or r.aborted then 'failed'", "when r.aborted then 'failed'"),
    ),
    # 4.11: clear and revert.
    mutant(
        "401 counts as cleared",
        "4.11",
        ACTIONS,
        ("a.action = 'clear' and a.ok) a\n", "a.action = 'clear' and (a.ok or a.code = 401)) a\n"),
        tests=(HARD, WALKS),
    ),
    mutant(
        "a revert is not waited for",
        "4.11",
        ENDING,
        ("and t.outcome = 'succeeded' and t.cleared_at is null", "and false"),
    ),
    mutant(
        "ended is over, cleared or not",
        "3 ended and cleared",
        ENDING,
        ("if v_uncleared = 0 then", "if true then"),
    ),
    # 4.12: one bad row; 5: the same plan again.
    mutant(
        "a root that raises stops the start of its engine",
        "4.12",
        ENGINE,
        ("perform atm_internal.set_root_aside(v_root_no, sqlstate, sqlerrm);", "raise;"),
        tests=(HARD,),
    ),
    mutant(
        "another plan with the same id is taken for the same",
        "5 plan_command",
        PLANNING,
        ("elsif v_document <> p_plan then", "elsif false then"),
        tests=(LIFE,),
    ),
    # The hands.
    mutant(
        "a create leaves after submit_window",
        "4.6 submit_window",
        SUBMIT,
        (
            'if time.monotonic() >= send_by:\n            return _Doubt(f"submit_window',
            'if False:\n            return _Doubt(f"submit_window',
        ),
        tests=SUBMISSION,
    ),
    mutant(
        "VDSM is called after a COMMIT that was only local",
        "4.10",
        SUBMIT,
        ("if announced.only_local:", "if False:"),
        tests=SUBMISSION,
    ),
    mutant(
        "a create is sent twice",
        "6 never repeated",
        SUBMIT,
        ("if task.task_id in self._sent:", "if False:"),
        tests=SUBMISSION,
    ),
    mutant(
        "a poll begins after its listing",
        "4.2 poll start",
        "pyatm/poller/pool_loop.py",
        (
            "        started_at = await database.clock()\n        listing = await self._finder.list_tasks()\n",
            "        listing = await self._finder.list_tasks()\n        started_at = await database.clock()\n",
        ),
        tests=(LISTING,),
    ),
    mutant(
        "the SPM role is not looked at after the listing",
        "4.2 lver",
        "pyatm/poller/spm.py",
        ("if after is None or (after.role, after.lver, after.spm_id) != (", "if False and (0, 0, 0) != ("),
        tests=(LISTING,),
    ),
    mutant(
        "chores follow a report that was committed only locally",
        "4.10",
        "pyatm/poller/pool_loop.py",
        ("if not reported.durable:", "if False:"),
        tests=("tests/poller/test_database_outage.py::test_nothing_is_done_at_vdsm_after_a_commit_without_its_standby",),
    ),
)  # fmt: skip
