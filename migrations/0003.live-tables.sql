-- The live tables: pools, engines, roots, commands, tasks, holds.
--
--   engine --epoch--< root --< command --< task >-- open_pool --- pool --- pool_poll
--                      |
--                      +--< hold
--
-- root and task are the rows that change, so they are narrow: the document a command was planned
-- with lies in atm_internal.plan (0004) and is written once. An index costs a write for each
-- update that touches one of its columns; every index here names the question it answers.
--
-- depends: 0002.types-and-settings

set local role atm_owner;

create table atm_internal.pool (
  pool_no         integer generated always as identity primary key,
  storage_pool_id uuid not null unique,
  pool_name       text not null check (pool_name <> ''),
  hosts           jsonb not null check (jsonb_typeof(hosts) = 'array'),
  removed         boolean not null default false,
  drained         boolean not null default false,
  created_at      timestamptz not null default clock_timestamp()
);
comment on table atm_internal.pool is 'The storage pools, with the hosts one of which is SPM.';

-- A pool with tasks cannot be removed, not even by a transaction whose snapshot lacks them: the tasks refer to this table, and a
-- foreign key always looks at what is there now.
create table atm_internal.open_pool (
  pool_no integer primary key references atm_internal.pool
);
comment on table atm_internal.open_pool is 'The storage pools that are not removed.';

-- What changes with each poll: the only row that an unchanged poll writes.
create table atm_internal.pool_poll (
  pool_no     integer primary key references atm_internal.pool,
  poller      text,
  token       bigint,
  lease       interval,
  lease_until timestamptz,
  reported_at timestamptz,             -- last call of report_poll, listing or not
  polled_at   timestamptz,             -- begin of the last listing that was applied
  host        text,
  spm_id      integer,
  lver        bigint,                  -- the SPM incarnation of the last listing
  lver_since  timestamptz,             -- begin of the first listing of that incarnation
  unreadable  jsonb,                   -- entries of the last listing that could not be read
  idle        boolean not null default true,
  check ((poller is null) = (token is null) and (token is null) = (lease_until is null)),
  check ((polled_at is null) = (lver is null))
) with (fillfactor = 50);
comment on table atm_internal.pool_poll is 'Lease and last poll of each pool; one narrow row, the sign of life of a poll.';

create table atm_internal.engine (
  engine_name text primary key check (engine_name <> '' and length(engine_name) <= 200),
  epoch       bigint not null unique,
  started_at  timestamptz not null,
  client      text,
  application text
);
comment on table atm_internal.engine is 'The engines and the epoch of the incarnation that may write.';

create table atm_internal.root (
  root_no     bigint primary key,
  -- The key share lock that this reference takes makes a plan and start_engine wait for each other, and the
  -- cascade stamps every root of the older incarnation. Above READ COMMITTED the cascade raises 40001 when
  -- it would miss one.
  epoch       bigint not null references atm_internal.engine (epoch) on update cascade,
  created_at  timestamptz not null,
  state       atm_internal.root_state not null,
  outcome     atm_internal.root_outcome,
  open_tasks  integer not null check (open_tasks >= 0),
  uncleared   integer check (uncleared >= 0),     -- counted when the root ends, then counted down
  failed      boolean not null default false,     -- some task is done and did not succeed
  aborted     boolean not null default false,
  stop        boolean not null default false,     -- running tasks are to be stopped at VDSM
  chores      boolean not null default false,     -- report_poll has something to do for it
  pool_no     integer references atm_internal.pool,  -- NULL: tasks in several pools, or in none
  attempt     integer not null default 0,
  last_token  bigint,                             -- the last claim; goes into the history
  token       bigint,
  due_at      timestamptz,                        -- when endAction may be claimed (again)
  ready_at    timestamptz,
  claimed_at  timestamptz,
  ended_at    timestamptz,
  check ((state in ('open', 'sealed')) = (outcome is null)),
  check (outcome is null or open_tasks = 0),
  check ((state in ('ready', 'ending')) = (due_at is not null)),
  check ((state = 'ending') = (token is not null)),
  check ((state = 'ended') = (ended_at is not null)),
  check ((ended_at is null) = (uncleared is null)),
  check (outcome is distinct from 'succeeded' or not (failed or aborted))
) with (fillfactor = 70);
comment on table atm_internal.root is 'The part of a root command that changes.';

-- Which endActions may this engine claim?
create index root_due on atm_internal.root (epoch, due_at) where due_at is not null;
-- Whose token is this?
create unique index root_token on atm_internal.root (token) where token is not null;
-- For which roots has a pool's poller something to do?
create index root_chores on atm_internal.root (pool_no) where chores;

create table atm_internal.command (
  root_no     bigint not null references atm_internal.root on delete restrict,
  command_no  integer not null check (command_no >= 0),   -- 0 is the root command
  parent_no   integer,                                    -- the parent; NULL for the root command and those directly below it
  ancestors   integer[],                                  -- the parent and those above it, without the root; NULL on the first two levels
  command_id  uuid not null unique,
  action_type text not null check (action_type <> ''),
  primary key (root_no, command_no),
  check (parent_no between 1 and command_no - 1),
  foreign key (root_no, parent_no) references atm_internal.command on delete restrict
);
comment on table atm_internal.command is 'The command tree, root included; written once.';
-- Which commands have this parent? The foreign key asks when a command is deleted; few commands are in it.
create index command_parent on atm_internal.command (root_no, parent_no) where parent_no is not null;

create table atm_internal.task (
  task_id      uuid primary key,
  root_no      bigint not null,
  command_no   integer not null,
  task_no      integer not null,                  -- plan order within the root
  pool_no      integer not null references atm_internal.open_pool on delete restrict,
  task_type    text not null check (task_type <> ''),
  state        atm_internal.task_state not null,
  outcome      atm_internal.task_outcome,
  epoch        bigint,                            -- who may announce and bind it; NULL: nobody any more
  announced_at timestamptz,
  bound_at     timestamptz,
  done_at      timestamptz,
  cleared_at   timestamptz,
  vdsm_task_id uuid,
  vdsm_code    integer,
  vdsm_state   text,
  vdsm_result  text,
  vdsm_message text,
  foreign key (root_no, command_no) references atm_internal.command on delete restrict,
  unique (root_no, task_no),
  -- Done is who has an outcome. Each update parses these anew, so they ask for nulls where they can.
  check ((state = 'done') = (outcome is not null)),
  check ((outcome is null) = (done_at is null)),
  check ((vdsm_task_id is null) = (bound_at is null)),
  check (outcome is not null or (state = 'running') = (vdsm_task_id is not null)),
  -- A check that is NULL holds, hence the coalesce.
  check (announced_at is not null or state = 'planned' or coalesce(outcome in ('failed', 'not_submitted'), false)),
  check (outcome is distinct from 'succeeded' or vdsm_task_id is not null),
  check (outcome is distinct from 'not_submitted' or (announced_at is null and vdsm_task_id is null)),
  check (cleared_at is null or outcome is not null)
) with (fillfactor = 40);
comment on table atm_internal.task is 'One row per planned task: its state here, and what VDSM last said of it.';

-- Which task has this VDSM id? One at the most.
create unique index task_vdsm_task_id on atm_internal.task (vdsm_task_id) where vdsm_task_id is not null;
-- Which tasks does this pool have?
create index task_pool on atm_internal.task (pool_no);

-- VDSM's id and the outcome are written once.
create function atm_internal.refuse_rewrite() returns trigger
language plpgsql as $$
begin
  raise exception 'task %: % is written once', old.task_id,
      case when old.outcome is distinct from new.outcome and old.outcome is not null then 'its outcome' else 'VDSM''s id' end
    using errcode = 'AT104';
end
$$;

-- After, not before: a trigger before an update locks each row first, whatever its condition says.
create trigger task_written_once
after update of vdsm_task_id, outcome on atm_internal.task
for each row
when ((old.vdsm_task_id is not null and new.vdsm_task_id is distinct from old.vdsm_task_id)
   or (old.outcome is not null and new.outcome is distinct from old.outcome))
execute function atm_internal.refuse_rewrite();

-- An entity is a network of addresses, an exclusive holder takes the whole network and a shared holder
-- one address in it: two holders exclude each other when their addresses overlap. 96 bits of a SHA-256 name
-- the network, the root number the address. The type inet and its && are core, and SP-GiST serves them at
-- the price of a btree (docs/decisions/0003). decode is the immutable way from a text to its bytes. Not in SQL:
-- that would be inlined anew for each statement that writes the table.
create function atm_internal.entity_slot(
  p_entity_type text, p_entity_id uuid, p_access atm_internal.access, p_root_no bigint
) returns inet
language plpgsql immutable parallel safe as $$
declare
  v_hash constant text := encode(sha256(uuid_send(p_entity_id) || decode(replace(p_entity_type, '\', '\\'), 'escape')), 'hex');
begin
  return (substr(v_hash, 1, 4) || ':' || substr(v_hash, 5, 4) || ':' || substr(v_hash, 9, 4) || ':'
          || substr(v_hash, 13, 4) || ':' || substr(v_hash, 17, 4) || ':' || substr(v_hash, 21, 4)
          || case p_access
               when 'exclusive' then '::/96'
               else ':' || to_hex((p_root_no >> 16) & 65535) || ':' || to_hex(p_root_no & 65535)
             end)::inet;
end
$$;

create table atm_internal.hold (
  root_no     bigint not null references atm_internal.root on delete restrict,
  entity_type text not null check (entity_type <> '' and length(entity_type) <= 200),
  entity_id   uuid not null,
  access      atm_internal.access not null,
  released    boolean not null default false,   -- the root has ended, but VDSM may still work on the entity
  command_nos integer[],                        -- the commands that name the entity
  task_nos    integer[],                        -- the tasks that name it
  slot        inet generated always as (
    case when not released then atm_internal.entity_slot(entity_type, entity_id, access, root_no) end
  ) stored,
  -- Admission. It also keeps a root from holding an entity twice, as both rows would have one address, and
  -- it serves "who holds this entity?".
  constraint hold_admission exclude using spgist (slot with &&)
);
comment on table atm_internal.hold is 'What each root holds, in its strongest access; one row per root and entity.';
create index hold_root_no on atm_internal.hold (root_no);
create index hold_released on atm_internal.hold (entity_id) where released;

reset role;
