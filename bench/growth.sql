-- Each statement follows a line `-- name: NAME`.

-- name: copy_history
-- Copies with ids of their own, until the history has so many rows.
with copied as (
insert into atm_internal.history
select (jsonb_populate_record(m.h, jsonb_build_object(
         'command_id', gen_random_uuid(),
         'vdsm_task_ids', jsonb_build_array(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid())))).*
  from generate_series(1, %(rows)s - (select count(*) from atm_internal.history)) n
  join (select x.h, row_number() over () - 1 as place, count(*) over () as number
          from (select e as h from atm_internal.history e limit 100) x) m on m.place = n %% m.number
returning command_id, archived_at
)
insert into atm_internal.archived (command_id, archived_at) select command_id, archived_at from copied

-- name: fill_floor
-- As many rows as so many planned commands have on pyatm; one entity of each task is there already.
with root as (
  select gen_random_uuid() as id from generate_series(1, %(commands)s)
), command as (
  insert into floor.command select root.id, gen_random_uuid(), 'RemoveImage', 'open' from root, generate_series(1, 5)
), task as (
  insert into floor.task
  select gen_random_uuid(), root.id, 'deleteImage', root.id, null, 'planned', %(parameters)s from root, generate_series(1, 4)
)
insert into floor.entity select root.id, 'Image', gen_random_uuid() from root, generate_series(1, 4)

-- name: sizes
-- Ordinary tables are live ones, partitions of the history are told by their name.
select c.relname, pg_total_relation_size(c.oid) from pg_class c
 where c.relnamespace = 'atm_internal'::regnamespace and c.relkind = 'r' and pg_total_relation_size(c.oid) > 0 order by 1
