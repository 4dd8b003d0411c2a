-- Types, the one source of numbers, settings, error codes and the audit trail.
--
-- depends: 0001.schemas-and-roles

set local role atm_owner;

create type atm_internal.root_state as enum (
  'open',        -- more tasks may come
  'sealed',      -- open -> sealed: no more will come
  'ready',       -- sealed -> ready: every task is done, endAction may be claimed
  'ending',      -- ready -> ending: endAction is claimed, with a token and a lease
  'reverting',   -- ending -> reverting: VDSM has to revert the succeeded tasks first
  'ended',       -- ending or reverting -> ended: only VDSM's clears are missing
  'end_failed'   -- ending -> end_failed: endAction gave up, an operator decides
);

create type atm_internal.root_outcome as enum ('succeeded', 'failed');

create type atm_internal.task_state as enum (
  'planned',     -- certainly never sent
  'submitting',  -- planned -> submitting: announced, committed before the call to VDSM
  'in_doubt',    -- submitting -> in_doubt: nobody knows whether VDSM has it
  'running',     -- submitting or in_doubt -> running: bound to VDSM's id
  'done'         -- any -> done: over, with an outcome
);

create type atm_internal.task_outcome as enum (
  'succeeded',      -- VDSM said finished with result success; nothing else is this
  'failed',         -- VDSM refused it or ended it otherwise, or an operator said so
  'not_submitted',  -- certainly never sent
  'in_doubt',       -- was announced; VDSM never showed it within the settle time and the polls after it
  'lost'            -- was bound; VDSM no longer lists it
);

create type atm_internal.access as enum ('shared', 'exclusive');

-- Rows that the public functions return under names their arguments carry too.
create type atm.planned_task as (
  task_id uuid, command_id uuid, root_command_id uuid, task_type text, storage_pool_id uuid, state text
);
create type atm.task_state as (task_id uuid, state text);

-- A plan document, flattened (sql/030_plan_document.sql).
create type atm_internal.plan_node as (
  command_no integer, parent_no integer, ancestors integer[], command_id uuid, action_type text
);
create type atm_internal.plan_task as (
  task_no integer, command_no integer, command_id uuid, task_id uuid, task_type text, storage_pool_id uuid, submit boolean
);
create type atm_internal.plan_entity as (
  command_no integer, task_no integer, entity_type text, entity_id uuid, access atm_internal.access
);
create type atm_internal.flat_plan as (
  nodes atm_internal.plan_node[], tasks atm_internal.plan_task[], entities atm_internal.plan_entity[], generated boolean
);

comment on type atm.planned_task is 'A row of atm.plan_command and atm.add_tasks: one task in plan order.';
comment on type atm.task_state is 'A row of atm.submit_tasks and atm.bind_task: a task and the state it has now.';

-- Epochs, poller leases and claim tokens come from one sequence, so that none is ever mistaken for another.
create sequence atm_internal.stamp;
create sequence atm_internal.root_no;

create table atm_internal.setting (
  only_row            boolean primary key default true check (only_row),
  absence_polls       integer  not null default 3         check (absence_polls between 1 and 1000),
  absence_time        interval not null default '30 s'    check (absence_time between '0' and '1 day'),
  in_doubt_settle     interval not null default '180 s'   check (in_doubt_settle between '0' and '1 day'),
  submit_window       interval not null default '30 s'    check (submit_window between '1 ms' and '1 hour'),
  end_action_attempts integer  not null default 10        check (end_action_attempts between 1 and 100000),
  end_action_backoff  interval not null default '1 s'     check (end_action_backoff between '0' and '1 hour'),
  notify              boolean  not null default true,
  orphan_policy       text     not null default 'suspected' check (orphan_policy in ('suspected', 'all', 'none')),
  parameters_limit    integer  not null default 1048576   check (parameters_limit between 1024 and 268435456),
  history_months      integer  not null default 12        check (history_months between 1 and 1200)
);
comment on table atm_internal.setting is 'One typed row of settings. Read them in atm.settings, change them with atm.set_setting.';
comment on column atm_internal.setting.absence_polls is
  'Polls of one SPM incarnation that must miss a task before it counts as absent, and that must pass after in_doubt_settle.';
comment on column atm_internal.setting.absence_time is
  'Time a task must have been missing before it counts as absent.';
comment on column atm_internal.setting.in_doubt_settle is
  'Time after a task became in doubt in which VDSM may still start it (lock wait of 120 s, full queue). An assumption about VDSM, not a proof.';
comment on column atm_internal.setting.submit_window is
  'Time after the announcing commit in which an engine may still send the create; later it calls atm.doubt_task.';
comment on column atm_internal.setting.end_action_attempts is 'Claims of an endAction before its command becomes end_failed.';
comment on column atm_internal.setting.end_action_backoff is
  'Wait before the second attempt of an endAction that asked for a retry without naming a time; doubled each time, at most 5 minutes.';
comment on column atm_internal.setting.notify is 'Send NOTIFY atm_ready and atm_work. Everything works without; it only takes longer.';
comment on column atm_internal.setting.orphan_policy is
  'Which orphans are followed and cleared: suspected (those a planned task may have caused), all, none.';
comment on column atm_internal.setting.parameters_limit is 'Largest parameters object of a command or task, in bytes.';
comment on column atm_internal.setting.history_months is 'Months of history that atm.purge_history keeps when it is called without a limit.';

insert into atm_internal.setting default values;

create table atm_internal.error_code (
  code    text primary key check (code ~ '^AT[0-3][0-9]{2}$'),
  name    text not null unique,
  meaning text not null,
  remedy  text not null
);
comment on table atm_internal.error_code is 'The SQLSTATEs that pyatm raises; its rows are loaded from sql/010_errors.sql. Read them in atm.errors.';

create table atm_internal.audit (
  audit_no    bigint generated always as identity primary key,
  at          timestamptz not null default clock_timestamp(),
  who         text not null default session_user,
  client      text,
  application text,
  function    text not null,
  target      text not null,
  reason      text not null check (reason <> ''),
  detail      jsonb not null default '{}'
);
comment on table atm_internal.audit is 'Who changed what by an operator function, from where and why.';
create index audit_at on atm_internal.audit (at);
create index audit_target on atm_internal.audit (target);

reset role;
