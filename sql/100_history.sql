-- History: a root that has ended and that VDSM has forgotten leaves the live tables.
--
-- Its document lies in atm_internal.plan since it was planned; what became of it is one row in atm_internal.history. Both are
-- partitioned by month and lose their oldest rows by dropping partitions. Rows are deleted in sets, children first.

-- p_root_nos: locked roots that have ended and of which VDSM has, now at the latest, forgotten every task.
create or replace function atm_internal.archive(p_root_nos bigint[]) returns void
language plpgsql as $$
begin
  with over as (
    insert into atm_internal.history (
      archived_at, root_no, command_id, action_type, engine_name, epoch, planned_at, ready_at, ended_at, outcome, aborted, attempts,
      claimed_at, token, notes, task_ids, command_nos, pool_nos, task_types, outcomes, vdsm_task_ids, vdsm_states, vdsm_results, vdsm_codes,
      vdsm_messages, announced_at, bound_at, done_at, cleared_at)
    select clock_timestamp(), r.root_no, c.command_id, c.action_type, e.engine_name, r.epoch, r.created_at, r.ready_at, r.ended_at,
           r.outcome, r.aborted, r.attempt, r.claimed_at, r.last_token,
           coalesce((select jsonb_agg(jsonb_strip_nulls(to_jsonb(n) - 'root_no') order by n.at) from atm_internal.note n where n.root_no = r.root_no), '[]'),
           coalesce(t.task_ids, '{}'), coalesce(t.command_nos, '{}'), coalesce(t.pool_nos, '{}'), coalesce(t.task_types, '{}'),
           coalesce(t.outcomes, '{}'), coalesce(t.vdsm_task_ids, '{}'), coalesce(t.vdsm_states, '{}'), coalesce(t.vdsm_results, '{}'),
           coalesce(t.vdsm_codes, '{}'), coalesce(t.vdsm_messages, '{}'), coalesce(t.announced_at, '{}'), coalesce(t.bound_at, '{}'),
           coalesce(t.done_at, '{}'), coalesce(t.cleared_at, '{}')
      from atm_internal.root r
      join atm_internal.command c on c.root_no = r.root_no and c.command_no = 0
      join atm_internal.engine e on e.epoch = r.epoch
      left join (
        select t.root_no,
               array_agg(t.task_id) as task_ids, array_agg(t.command_no) as command_nos, array_agg(t.pool_no) as pool_nos,
               array_agg(t.task_type) as task_types, array_agg(t.outcome) as outcomes, array_agg(t.vdsm_task_id) as vdsm_task_ids,
               array_agg(t.vdsm_state) as vdsm_states, array_agg(t.vdsm_result) as vdsm_results, array_agg(t.vdsm_code) as vdsm_codes,
               array_agg(t.vdsm_message) as vdsm_messages, array_agg(t.announced_at) as announced_at, array_agg(t.bound_at) as bound_at,
               array_agg(t.done_at) as done_at, array_agg(coalesce(t.cleared_at, clock_timestamp())) as cleared_at
          from (select * from atm_internal.task t where t.root_no = any (p_root_nos) order by t.root_no, t.task_no) t
         group by t.root_no) t on t.root_no = r.root_no
     where r.root_no = any (p_root_nos)
    returning command_id, archived_at
  )
  insert into atm_internal.archived (command_id, archived_at)
  select o.command_id, o.archived_at from over o;

  -- An orphan outlives the commands that may have caused it: since their doubts were ended it is marked as suspected.
  delete from atm_internal.suspect s where s.root_no = any (p_root_nos);
  delete from atm_internal.watch w where w.root_no = any (p_root_nos);
  delete from atm_internal.note n where n.root_no = any (p_root_nos);
  delete from atm_internal.set_aside a where a.root_no = any (p_root_nos);
  delete from atm_internal.hold h where h.root_no = any (p_root_nos);
  delete from atm_internal.task t where t.root_no = any (p_root_nos);
  delete from atm_internal.command c where c.root_no = any (p_root_nos);
  delete from atm_internal.root r where r.root_no = any (p_root_nos);
end
$$;

-- The same; when some root raises an error, each on its own, and those that raise are set aside.
create or replace function atm_internal.archive_apart(p_root_nos bigint[]) returns void
language plpgsql as $$
declare
  v_root_no bigint;
begin
  if p_root_nos is null then
    return;
  end if;
  perform atm_internal.archive(p_root_nos);
exception
  when serialization_failure or deadlock_detected then
    raise;
  when others then
    foreach v_root_no in array p_root_nos loop
      begin
        perform atm_internal.archive(array[v_root_no]);
      exception
        when serialization_failure or deadlock_detected then
          raise;
        when others then
          -- What VDSM has confirmed stays known.
          update atm_internal.task t set cleared_at = clock_timestamp() where t.root_no = v_root_no and t.cleared_at is null;
          update atm_internal.root r set uncleared = 0 where r.root_no = v_root_no;
          perform atm_internal.set_root_aside(v_root_no, sqlstate, sqlerrm);
      end;
    end loop;
end
$$;

-- Makes the partitions of the coming months; rows that a default partition has meanwhile taken are moved.
create or replace function atm.ensure_partitions(months_ahead integer default 3) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_months_ahead alias for $1;
  v_table text;
  v_column text;
  v_month date;
  v_name text;
  v_made integer := 0;
begin
  if p_months_ahead is null or p_months_ahead not between 0 and 120 then
    raise exception 'atm.ensure_partitions: argument months_ahead must be 0 to 120' using errcode = 'AT001';
  end if;
  perform pg_advisory_xact_lock(hashtextextended('atm.ensure_partitions', 0));
  for v_table, v_column in values ('plan', 'planned_at'), ('history', 'archived_at') loop
    for v_month in
      select d::date from generate_series(date_trunc('month', now()), date_trunc('month', now()) + make_interval(months => p_months_ahead), '1 month') d
    loop
      v_name := format('%s_%s', v_table, to_char(v_month, 'YYYY_MM'));
      continue when to_regclass('atm_internal.' || v_name) is not null;
      execute format('create table atm_internal.%I (like atm_internal.%I including defaults including constraints)', v_name, v_table);
      execute format('with moved as (delete from atm_internal.%I where %I >= %L and %I < %L returning *) insert into atm_internal.%I select * from moved',
                     v_table || '_default', v_column, v_month, v_column, v_month + interval '1 month', v_name);
      execute format('alter table atm_internal.%I attach partition atm_internal.%I for values from (%L) to (%L)',
                     v_table, v_name, v_month, v_month + interval '1 month');
      v_made := v_made + 1;
    end loop;
  end loop;
  return v_made;
end
$$;

comment on function atm.ensure_partitions(integer) is
$$Makes the partitions of history and plans for this month and the coming ones. Called by migration, by the pollers once a day, and whenever you like.
  months_ahead  0 to 120
Returns the number of partitions made. Locks the partitioned tables for a moment when it makes one.$$;

create or replace function atm.purge_history(reason text, keep_months integer default null, dry_run boolean default true)
returns table (partition_name text, month date, commands bigint, dropped boolean)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_reason alias for $1;
  p_keep alias for $2;
  p_dry_run alias for $3;
  v_before date;
  v_part record;
  v_rows bigint;
begin
  perform atm_internal.require_reason('purge_history', p_reason);
  if p_dry_run is null then
    perform atm_internal.refuse_null('purge_history', jsonb_build_object('dry_run', p_dry_run));
  end if;
  p_keep := coalesce(p_keep, (select s.history_months from atm_internal.setting s));
  if p_keep not between 0 and 1200 then
    raise exception 'atm.purge_history: argument keep_months must be 0 to 1200, is %', p_keep using errcode = 'AT001';
  end if;
  v_before := (date_trunc('month', now()) - make_interval(months => p_keep))::date;
  for v_part in
    select c.relname as name, to_date(right(c.relname, 7), 'YYYY_MM') as month, p.relname as parent
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      join pg_class p on p.oid = i.inhparent
      join pg_namespace n on n.oid = p.relnamespace and n.nspname = 'atm_internal'
     where p.relname in ('plan', 'history') and c.relname ~ '^(plan|history)_[0-9]{4}_[0-9]{2}$'
       and to_date(right(c.relname, 7), 'YYYY_MM') < v_before
     order by p.relname, c.relname
  loop
    -- A document stays while its command lives, or while its history is kept.
    if v_part.parent = 'plan' and (
         exists (select from atm_internal.root r where r.created_at >= v_part.month and r.created_at < v_part.month + interval '1 month')
      or exists (select from atm_internal.history h
                  where h.planned_at >= v_part.month and h.planned_at < v_part.month + interval '1 month' and h.archived_at >= v_before)) then
      continue;
    end if;
    execute format('select count(*) from atm_internal.%I', v_part.name) into v_rows;
    if not p_dry_run then
      execute format('drop table atm_internal.%I', v_part.name);
      delete from atm_internal.archived a
       where v_part.parent = 'history' and a.archived_at >= v_part.month and a.archived_at < v_part.month + interval '1 month';
    end if;
    partition_name := v_part.name; month := v_part.month; commands := v_rows; dropped := not p_dry_run;
    return next;
  end loop;
  if not p_dry_run then
    perform atm_internal.write_audit('purge_history', 'history', p_reason, jsonb_build_object('keep_months', p_keep));
  end if;
end
$$;

comment on function atm.purge_history(text, integer, boolean) is
$$Drops the partitions of history that are older than the given number of months.
  reason       why; kept in atm.audit
  keep_months  full months to keep; NULL: the setting history_months
  dry_run      true: only show what would be dropped
Returns partition_name, month, commands, dropped. Documents of commands that still live, or whose history is kept, stay. Errors: AT001.
Dropping locks the partitioned table for a moment.$$;
