-- What the bench measures pyatm against. Each statement follows a line `-- name: NAME`.
--
-- The floor is the same lifecycle without any rule: no constraints but the keys that the writes need,
-- no checks, no admission, no history.

-- name: floor_schema
create schema floor;
create table floor.command (
  root_id uuid not null, command_id uuid primary key, action_type text not null, state text not null
);
create index on floor.command (root_id);
create table floor.task (
  task_id uuid primary key, root_id uuid not null, task_type text not null, pool_id uuid not null,
  vdsm_task_id uuid, state text not null, parameters jsonb not null
);
create index on floor.task (root_id);
create table floor.entity (root_id uuid not null, entity_type text not null, entity_id uuid not null);
create index on floor.entity (entity_id, entity_type);
create index on floor.entity (root_id);

-- name: floor_insert
with c as (
  insert into floor.command select %(root)s, x, 'RemoveImage', 'open' from unnest(%(commands)s::uuid[]) x
), t as (
  insert into floor.task
  select x, %(root)s, 'deleteImage', %(pool)s, null, 'planned', %(parameters)s from unnest(%(tasks)s::uuid[]) x
)
insert into floor.entity select %(root)s, 'Disk', x from unnest(%(entities)s::uuid[]) x

-- name: floor_bind
update floor.task set vdsm_task_id = %(vdsm)s, state = 'running' where task_id = %(task)s

-- name: floor_bind_all
update floor.task t set vdsm_task_id = x.vdsm, state = 'running'
  from unnest(%(tasks)s::uuid[], %(vdsms)s::uuid[]) x (task, vdsm) where t.task_id = x.task

-- name: floor_report
update floor.task set state = 'done' where task_id = any (%(tasks)s::uuid[])

-- name: floor_claim
update floor.command set state = 'ending' where command_id = %(root)s returning command_id

-- name: floor_report_and_claim
with t as (update floor.task set state = 'done' where task_id = any (%(tasks)s::uuid[]))
update floor.command set state = 'ending' where command_id = %(root)s returning command_id

-- name: floor_delete
with t as (delete from floor.task where root_id = %(root)s),
     e as (delete from floor.entity where root_id = %(root)s)
delete from floor.command where root_id = %(root)s

-- name: bare_plan
-- The rows of a plan with a thousand tasks, without the rules.
insert into floor.task
select (t ->> 'task_id')::uuid, %(root)s, t ->> 'task_type', (t ->> 'storage_pool_id')::uuid, null, 'planned', t -> 'parameters'
  from jsonb_array_elements(%(plan)s::jsonb -> 'tasks') t

-- name: bare_each
select count(*) from jsonb_each(%(statuses)s::jsonb) l
 where l.value ->> 'taskState' is null or l.value ->> 'taskResult' is null or l.value ->> 'code' is null or l.value ->> 'message' is null

-- name: fill_entities
insert into floor.entity select gen_random_uuid(), 'Disk', x from unnest(%(entities)s::uuid[]) x

-- name: bare_probe
select root_id from floor.entity where entity_id = %(entity)s and entity_type = 'Disk'

-- name: task_writes
select n_tup_upd from pg_stat_user_tables where schemaname = 'atm_internal' and relname = 'task'

-- name: plan_many
select count(*) from unnest(%(plans)s::jsonb[]) d, atm.plan_command(epoch => %(epoch)s, plan => d)
