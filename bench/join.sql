-- What a user of a job queue writes by hand around it: commands, their entities, and a counter that
-- tells which task was the last one. The simplest that works, to the queues' advantage: a counter is
-- wrong when a job runs twice. Each statement follows a line `-- name: NAME`.

-- name: schema
create schema work;
create table work.command (
  root_id uuid primary key, remaining integer not null, vdsm_task_ids uuid[] not null default '{}'
);
create table work.entity (root_id uuid not null, entity_type text not null, entity_id uuid not null);
create index on work.entity (entity_id, entity_type);
create index on work.entity (root_id);

-- name: plan
with c as (insert into work.command (root_id, remaining) values (%(root)s, 4))
insert into work.entity select %(root)s, 'Disk', x from unnest(%(entities)s::uuid[]) x

-- name: bind
update work.command set vdsm_task_ids = vdsm_task_ids || %(vdsm)s::uuid where root_id = %(root)s

-- name: task_done
update work.command set remaining = remaining - 1 where root_id = %(root)s returning remaining

-- name: end
with e as (delete from work.entity where root_id = %(root)s)
delete from work.command where root_id = %(root)s
