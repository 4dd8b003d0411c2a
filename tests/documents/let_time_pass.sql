-- Sets every time that pyatm has stored back by an interval, as if that long had passed since.
--
-- Works on whatever tables there are: each column of type timestamptz, arrays of them, and times inside jsonb.

create or replace function pg_temp.earlier(p_document jsonb, p_by interval) returns jsonb
language plpgsql as $$
declare
  v_text text := p_document::text;
  v_found text;
begin
  for v_found in
    select distinct m[1] from regexp_matches(v_text, '"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[0-9.]*[+-]\d\d:\d\d)"', 'g') m
  loop
    v_text := replace(v_text, v_found, to_jsonb(v_found::timestamptz - p_by) #>> '{}');
  end loop;
  return v_text::jsonb;
end
$$;

create or replace function pg_temp.let_time_pass(p_by interval) returns void
language plpgsql as $$
declare
  v_table record;
begin
  -- No trigger fires and no foreign key is checked: everything moves together.
  set local session_replication_role = replica;
  for v_table in
    select c.oid::regclass as name,
           string_agg(case a.atttypid when 'jsonb'::regtype then format('%1$I = pg_temp.earlier(%1$I, %2$L)', a.attname, p_by)
                                      when 'timestamptz[]'::regtype
                                      then format('%1$I = array(select x - %2$L::interval from unnest(%1$I) with ordinality u (x, n) order by n)', a.attname, p_by)
                                      else format('%1$I = %1$I - %2$L::interval', a.attname, p_by) end, ', ') as changes
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'atm_internal'
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                         and a.atttypid in ('timestamptz'::regtype, 'timestamptz[]'::regtype, 'jsonb'::regtype)
     where c.relkind in ('r', 'p') and not c.relispartition
     group by c.oid
  loop
    execute format('update %s set %s', v_table.name, v_table.changes);
  end loop;
  set local session_replication_role = default;
end
$$;
