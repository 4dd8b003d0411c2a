-- What is rare about tasks, what VDSM has beside our tasks, and what is over.
--
-- depends: 0003.live-tables

set local role atm_owner;

create type atm_internal.watch_kind as enum (
  'doubt',    -- in doubt: polls counted after the settle time
  'absence',  -- bound, but missing from the listing
  'revert',   -- to be reverted by VDSM before the root ends
  'stop'      -- VDSM has accepted the stop; do not ask again at each poll
);

-- Rows exist only while something is being waited for, so the task rows stay narrow.
create table atm_internal.watch (
  root_no bigint not null references atm_internal.root on delete restrict,
  task_no integer not null,
  kind    atm_internal.watch_kind not null,
  pool_no integer not null references atm_internal.pool,
  since   timestamptz not null,
  lver    bigint,
  polls   integer not null default 0,
  primary key (root_no, task_no, kind)
);
comment on table atm_internal.watch is 'Tasks that are in doubt, absent, being reverted or being stopped, and the polls counted for them.';
create index watch_pool on atm_internal.watch (pool_no, kind);

-- VDSM tasks that are neither bound nor known from history.
create table atm_internal.unknown (
  vdsm_task_id  uuid primary key,
  pool_no       integer not null references atm_internal.pool,
  first_seen_at timestamptz not null,          -- when the first report with it was applied
  suspected     boolean not null,              -- a task that is gone from here may have caused it
  vdsm_state    text not null,
  vdsm_result   text not null,
  vdsm_code     integer not null,
  vdsm_message  text not null,
  absent_since  timestamptz,
  absent_lver   bigint,
  absent_polls  integer not null default 0,
  resolved_at   timestamptz                    -- an operator has said that nobody waits for it
);
comment on table atm_internal.unknown is 'VDSM tasks that no task here is bound to.';
create index unknown_pool on atm_internal.unknown (pool_no);

-- The tasks that were announced in its pool when it was first reported: one of them may be its origin.
create table atm_internal.suspect (
  root_no      bigint not null references atm_internal.root on delete restrict,
  task_no      integer not null,
  vdsm_task_id uuid not null references atm_internal.unknown on delete cascade,
  primary key (root_no, task_no, vdsm_task_id)
);
comment on table atm_internal.suspect is 'The announced tasks of which an unknown VDSM task may be the answer that got lost.';
create index suspect_vdsm_task_id on atm_internal.suspect (vdsm_task_id);

-- The uncommon events in the life of a root: aborted, recovered, resolved, retried, given up.
create table atm_internal.note (
  root_no bigint not null references atm_internal.root on delete restrict,
  at      timestamptz not null default clock_timestamp(),
  event   text not null,
  who     text not null,
  message text,
  task_no integer
);
comment on table atm_internal.note is 'Uncommon events of live roots, for atm.explain; they go into the history with the root.';
create index note_root_no on atm_internal.note (root_no);

-- Roots that could not be recovered, with what they raised.
create table atm_internal.set_aside (
  root_no bigint primary key references atm_internal.root on delete restrict,
  at      timestamptz not null default clock_timestamp(),
  code    text not null,
  message text not null
);
comment on table atm_internal.set_aside is 'Roots that raised an error in recovery or archiving: set aside so that the others go on.';

-- The document a root was planned with, and what was added later (part_no > 0): written once, never
-- updated, never moved. It serves idempotent planning, endAction and, later, history.
create table atm_internal.plan (
  root_no    bigint not null,
  part_no    integer not null,
  planned_at timestamptz not null,
  command_no integer not null default 0,      -- the command that add_tasks was called for
  document   jsonb not null,                  -- as given
  task_ids   uuid[],                          -- only when some id was generated
  command_ids uuid[],                         -- only when some id was generated
  primary key (root_no, part_no, planned_at)
) partition by range (planned_at);
comment on table atm_internal.plan is 'Planned documents, partitioned by month of planning.';
create table atm_internal.plan_default partition of atm_internal.plan default;

create table atm_internal.history (
  archived_at  timestamptz not null,
  root_no      bigint not null,
  command_id   uuid not null,
  action_type  text not null,
  engine_name  text not null,
  epoch        bigint not null,
  planned_at   timestamptz not null,
  ready_at     timestamptz,
  ended_at     timestamptz not null,
  outcome      atm_internal.root_outcome not null,
  aborted      boolean not null,
  attempts     integer not null,
  claimed_at   timestamptz,
  token        bigint,
  notes        jsonb not null,                 -- the notes of the root
  -- The tasks in plan order, a column in each array: half the size of one row per task, and typed.
  task_ids     uuid[] not null,
  command_nos  integer[] not null,
  pool_nos     integer[] not null,
  task_types   text[] not null,
  outcomes     atm_internal.task_outcome[] not null,
  vdsm_task_ids uuid[] not null,
  vdsm_states  text[] not null,
  vdsm_results text[] not null,
  vdsm_codes   integer[] not null,
  vdsm_messages text[] not null,
  announced_at timestamptz[] not null,
  bound_at     timestamptz[] not null,
  done_at      timestamptz[] not null,
  cleared_at   timestamptz[] not null
) partition by range (archived_at);
comment on table atm_internal.history is 'Ended and cleared commands, partitioned by month of archiving.';
create table atm_internal.history_default partition of atm_internal.history default;
create index history_command_id on atm_internal.history (command_id);
create index history_vdsm_task_ids on atm_internal.history using gin (vdsm_task_ids) with (gin_pending_list_limit = 256);

-- Is this command over? Each plan asks, and one probe here costs less than one in each month.
create table atm_internal.archived (
  command_id  uuid primary key,
  archived_at timestamptz not null
);
comment on table atm_internal.archived is 'The ids of the root commands in the history.';

-- Orphans that are over: their ids are known, so VDSM listing them again is a ghost.
create table atm_internal.orphan_history (
  vdsm_task_id  uuid primary key,
  storage_pool_id uuid not null,
  first_seen_at timestamptz not null,
  over_at       timestamptz not null,
  how           text not null,                 -- cleared, absent, resolved
  vdsm_state    text not null,
  vdsm_result   text not null,
  vdsm_code     integer not null,
  vdsm_message  text not null
);
comment on table atm_internal.orphan_history is 'Orphans that VDSM has forgotten or an operator has resolved.';

-- What a listing says that is new (sql/120_report_poll.sql): changed, again, absent, or unknown (root_no NULL).
create type atm_internal.seen as (root_no bigint, task_no integer, key text, value jsonb, kind text);

reset role;
