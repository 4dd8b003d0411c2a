-- Each statement follows a line `-- name: NAME`.

-- name: copy_history
-- Copies with ids of their own, until the history has so many rows.
insert into atm_internal.history
select (jsonb_populate_record(m.h, jsonb_build_object(
         'command_id', gen_random_uuid(),
         'vdsm_task_ids', jsonb_build_array(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid())))).*
  from generate_series(1, %(rows)s - (select count(*) from atm_internal.history)) n
  join (select x.h, row_number() over () - 1 as place, count(*) over () as number
          from (select e as h from atm_internal.history e limit 100) x) m on m.place = n %% m.number

-- name: sizes
-- Ordinary tables are live ones, partitions of the history are told by their name.
select c.relname, pg_total_relation_size(c.oid) from pg_class c
 where c.relnamespace = 'atm_internal'::regnamespace and c.relkind = 'r' and pg_total_relation_size(c.oid) > 0 order by 1
