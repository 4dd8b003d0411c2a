-- For people and exporters: the story of a command, findings, metrics.

create or replace function atm.explain(command_id uuid)
returns table (at timestamptz, what text, who text, detail text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp rows 20 as $$
#variable_conflict use_column
declare
  p_command_id alias for $1;
  v_root_no bigint;
  v_over atm_internal.history;
begin
  if p_command_id is null then
    perform atm_internal.refuse_null('explain', jsonb_build_object('command_id', p_command_id));
  end if;
  select c.root_no into v_root_no from atm_internal.command c where c.command_id = p_command_id;
  if found then
    return query select e.at, e.what, e.who, e.detail from atm_internal.explain_live(v_root_no) e order by e.at nulls last, e.place;
    return;
  end if;
  select h.* into v_over from atm_internal.history h where h.command_id = p_command_id order by h.archived_at desc limit 1;
  if not found then
    raise exception 'there is no command %, live or in the history', p_command_id
      using errcode = 'AT008', hint = 'See atm.commands and atm.history; history knows root commands.';
  end if;
  return query select e.at, e.what, e.who, e.detail from atm_internal.explain_over(v_over) e order by e.at nulls last, e.place;
end
$$;

comment on function atm.explain(uuid) is
$$The story of a command in rows: what happened, when, by whom, and as its last rows (without a time) what is missing now and what comes next.
  command_id  a live command, root or child; or a root in the history
Returns at, what, who, detail. Errors: AT001; AT008. Locks nothing.$$;

-- What VDSM last said of a task; empty when it never said anything.
create or replace function atm_internal.vdsm_said(p_state text, p_result text, p_code text, p_message text) returns text
language sql immutable as $$
  select case when p_state is null then ''
              else format('; VDSM: %s, code %s, %s', concat_ws(' ', p_state, nullif(p_result, '')), p_code, p_message) end
$$;

-- Who ended a task: the operator who resolved it or cancelled its command, its engine, or a poller with VDSM's word.
create or replace function atm_internal.ended_by(
  p_outcome text, p_vdsm_task_id uuid, p_done_at timestamptz, p_task_no integer, p_engine_name text, p_notes jsonb
) returns text
language sql stable as $$
  select coalesce(
    (select n ->> 'who' from jsonb_array_elements(p_notes) n
      where n ->> 'event' like 'task resolved to %' and (n ->> 'task_no')::integer = p_task_no limit 1),
    case when p_outcome = 'not_submitted' then
      (select n ->> 'who' from jsonb_array_elements(p_notes) n
        where n ->> 'event' = 'cancelled' and (n ->> 'at')::timestamptz <= p_done_at
          and not exists (select from jsonb_array_elements(p_notes) o
                           where o ->> 'event' in ('aborted', 'engine restarted') and (o ->> 'at')::timestamptz <= (n ->> 'at')::timestamptz)
        limit 1) end,
    case when p_vdsm_task_id is null and p_outcome in ('not_submitted', 'failed') then p_engine_name else 'poller' end)
$$;

-- In both stories, place orders what happened at one moment: the event's place in a life, then the task's number.
create or replace function atm_internal.explain_live(p_root_no bigint)
returns table (at timestamptz, what text, who text, detail text, place integer[])
language sql stable as $$
  select r.created_at, 'planned', e.engine_name,
         format('%s %s, %s tasks', c.action_type, c.command_id, (select count(*) from atm_internal.task t where t.root_no = p_root_no)), '{0}'
    from atm_internal.root r
    join atm_internal.engine e on e.epoch = r.epoch
    join atm_internal.command c on c.root_no = r.root_no and c.command_no = 0
   where r.root_no = p_root_no
  union all
  select x.at, x.what, x.who, format('%s %s%s', t.task_type, t.task_id, x.detail), array[x.place, t.task_no]
    from atm_internal.task t
    join atm_internal.root r on r.root_no = t.root_no
    join atm_internal.engine e on e.epoch = r.epoch
   cross join lateral (select coalesce(jsonb_agg(to_jsonb(n)), '[]') as notes from atm_internal.note n where n.root_no = p_root_no) n
   cross join lateral (values
     (t.announced_at, 'submitted', e.engine_name, '', 2),
     (t.bound_at, 'bound', e.engine_name, format(' to VDSM task %s', t.vdsm_task_id), 3),
     (t.done_at, 'done', atm_internal.ended_by(t.outcome::text, t.vdsm_task_id, t.done_at, t.task_no, e.engine_name, n.notes),
      format(': %s%s', t.outcome, atm_internal.vdsm_said(t.vdsm_state, t.vdsm_result, t.vdsm_code::text, t.vdsm_message)), 4),
     (case when t.vdsm_task_id is not null then t.cleared_at end, 'cleared', 'poller', '', 8)) x (at, what, who, detail, place)
   where t.root_no = p_root_no and x.at is not null
  union all
  select n.at, n.event, n.who, concat_ws(': ', (select t.task_id::text from atm_internal.task t where t.root_no = n.root_no and t.task_no = n.task_no), n.message),
         array[1, n.task_no]
    from atm_internal.note n where n.root_no = p_root_no
  union all
  select x.at, x.what, x.who, x.detail, array[x.place]
    from atm_internal.root r
    join atm_internal.engine e on e.epoch = r.epoch
   cross join lateral (values
     (r.ready_at, 'ready', null, r.outcome::text, 5), (r.claimed_at, 'endAction claimed', e.engine_name, format('attempt %s', r.attempt), 6),
     (r.ended_at, 'ended', null, r.outcome::text, 7)) x (at, what, who, detail, place)
   where r.root_no = p_root_no and x.at is not null
  union all
  select null, 'now: ' || r.state, null,
         case r.state
           when 'open' then 'more tasks may come; waits for atm.seal_command by its engine'
           when 'sealed' then format('waits for %s open tasks', r.open_tasks)
           when 'ready' then case when r.due_at > clock_timestamp() then format('endAction is offered again at %s', r.due_at) else 'waits for its engine to claim the endAction' end
           when 'ending' then format('endAction runs; its lease ends at %s', r.due_at)
           when 'reverting' then 'waits for VDSM to revert the succeeded tasks'
           when 'ended' then format('waits for VDSM to clear %s tasks', r.uncleared)
           else 'endAction gave up: an operator calls atm.retry_end_action or atm.cancel_command'
         end, '{10}'
    from atm_internal.root r where r.root_no = p_root_no
  union all
  select null, 'next', null, format('%s %s: %s', t.task_type, t.task_id,
         case t.state
           when 'planned' then 'waits for its engine to submit it'
           when 'submitting' then 'waits for its engine to bind VDSM''s answer'
           when 'in_doubt' then 'waits until polls have shown that VDSM does not have it'
           when 'running' then format('VDSM says %s; waits for its end', coalesce(t.vdsm_state, 'nothing yet'))
           else '' end), array[11, t.task_no]
    from atm_internal.task t where t.root_no = p_root_no and t.state <> 'done'
$$;

create or replace function atm_internal.explain_over(p_over atm_internal.history)
returns table (at timestamptz, what text, who text, detail text, place integer[])
language sql stable as $$
  select x.at, x.what, x.who, x.detail, array[x.place]
    from (values
      ((p_over).planned_at, 'planned', (p_over).engine_name, format('%s %s, %s tasks', (p_over).action_type, (p_over).command_id, cardinality((p_over).task_ids)), 0),
      ((p_over).ready_at, 'ready', null, (p_over).outcome::text, 5),
      ((p_over).claimed_at, 'endAction claimed', (p_over).engine_name, format('attempt %s', (p_over).attempts), 6),
      ((p_over).ended_at, 'ended', null, (p_over).outcome::text, 7),
      ((p_over).archived_at, 'cleared, in the history', null, null, 9)) x (at, what, who, detail, place)
   where x.at is not null
  union all
  select x.at, x.what, x.who, format('%s %s%s', t.task_type, t.task_id, x.detail), array[x.place, t.task_no]
    from (select * from atm.history_tasks t where t.command_id = (p_over).command_id and t.ended_at = (p_over).ended_at) t
   cross join lateral (values
     (t.announced_at, 'submitted', (p_over).engine_name, '', 2),
     (t.bound_at, 'bound', (p_over).engine_name, format(' to VDSM task %s', t.vdsm_task_id), 3),
     (t.done_at, 'done', atm_internal.ended_by(t.outcome::text, t.vdsm_task_id, t.done_at, t.task_no, (p_over).engine_name, (p_over).notes),
      format(': %s%s', t.outcome, atm_internal.vdsm_said(t.vdsm_state, t.vdsm_result, t.vdsm_code::text, t.vdsm_message)), 4),
     (case when t.vdsm_task_id is not null then t.cleared_at end, 'cleared', 'poller', '', 8)) x (at, what, who, detail, place)
   where x.at is not null
  union all
  select (n ->> 'at')::timestamptz, n ->> 'event', n ->> 'who',
         concat_ws(': ', (p_over).task_ids[(n ->> 'task_no')::integer + 1], n ->> 'message'),
         array[1, (n ->> 'task_no')::integer]
    from jsonb_array_elements((p_over).notes) n
$$;

create or replace function atm.metrics()
returns table (name text, labels jsonb, value double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select 'atm_commands', jsonb_build_object('state', s.state), count(r.root_no)::float8
    from unnest(enum_range(null::atm_internal.root_state)) s (state) left join atm_internal.root r on r.state = s.state group by s.state
  union all
  select 'atm_tasks', jsonb_build_object('state', s.state), count(t.task_id)::float8
    from unnest(enum_range(null::atm_internal.task_state)) s (state) left join atm_internal.task t on t.state = s.state group by s.state
  union all
  select 'atm_tasks_in_doubt_oldest_seconds', '{}', coalesce(extract(epoch from clock_timestamp() - min(w.since)), 0) from atm_internal.watch w where w.kind = 'doubt'
  union all
  select 'atm_ready_oldest_seconds', '{}', coalesce(extract(epoch from clock_timestamp() - min(r.ready_at)), 0) from atm_internal.root r where r.state = 'ready'
  union all
  select 'atm_end_failed_oldest_seconds', '{}', coalesce(extract(epoch from clock_timestamp() - min(r.claimed_at)), 0) from atm_internal.root r where r.state = 'end_failed'
  union all
  select 'atm_uncleared_oldest_seconds', '{}', coalesce(extract(epoch from clock_timestamp() - min(r.ended_at)), 0) from atm_internal.root r where r.state = 'ended'
  union all
  select 'atm_orphans', '{}', count(*)::float8 from atm_internal.unknown u where u.resolved_at is null
  union all
  select 'atm_set_aside', '{}', count(*)::float8 from atm_internal.set_aside
  union all
  select 'atm_pool_polled_age_seconds', jsonb_build_object('pool', p.pool_name, 'storage_pool_id', p.storage_pool_id),
         extract(epoch from clock_timestamp() - l.polled_at)
    from atm_internal.pool p join atm_internal.pool_poll l on l.pool_no = p.pool_no where not p.removed and l.polled_at is not null
  union all
  select m.name, jsonb_build_object('pool', p.pool_name, 'storage_pool_id', p.storage_pool_id, 'state', s.state), m.value
    from atm_internal.pool p
   cross join (values ('open'), ('in_doubt'), ('orphan'), ('uncleared')) s (state)
    left join (
      select t.pool_no, 'open', count(*), min(r.created_at)
        from atm_internal.task t join atm_internal.root r on r.root_no = t.root_no where t.state <> 'done' group by t.pool_no
      union all
      select w.pool_no, 'in_doubt', count(*), min(w.since) from atm_internal.watch w where w.kind = 'doubt' group by w.pool_no
      union all
      select u.pool_no, 'orphan', count(*), min(u.first_seen_at) from atm_internal.unknown u where u.resolved_at is null group by u.pool_no
      union all
      select t.pool_no, 'uncleared', count(*), min(r.ended_at)
        from atm_internal.root r join atm_internal.task t on t.root_no = r.root_no where r.state = 'ended' and t.cleared_at is null group by t.pool_no
    ) x (pool_no, state, n, since) on x.pool_no = p.pool_no and x.state = s.state
   cross join lateral (values
     ('atm_pool_tasks', coalesce(x.n, 0)::float8),
     ('atm_pool_oldest_seconds', coalesce(extract(epoch from clock_timestamp() - x.since), 0)::float8)) m (name, value)
   where not p.removed
  union all
  -- Of the commands that were claimed and still live: a sample, taken without a table of its own.
  select 'atm_ready_to_claimed_seconds', jsonb_build_object('quantile', q.quantile),
         coalesce(percentile_cont(q.quantile) within group (order by extract(epoch from r.claimed_at - r.ready_at)), 0)
    from (values (0.5::float8), (0.99)) q (quantile)
    left join atm_internal.root r on r.attempt = 1 and r.claimed_at >= r.ready_at
   group by q.quantile
  union all
  select 'atm_notification_queue_usage', '{}', pg_notification_queue_usage()
$$;
comment on function atm.metrics() is 'Figures for any exporter: name, labels, value; counts by state, and the ages of the oldest in each state that somebody should watch.';

create or replace function atm.check()
returns table (severity text, finding text, remedy text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select 'critical', format('storage pool %s has live tasks and no poller', p.pool_name), 'Start a poller: systemctl start pyatm-poller'
    from atm_internal.pool p join atm_internal.pool_poll l on l.pool_no = p.pool_no
   where not p.removed and (l.poller is null or l.lease_until < clock_timestamp())
     and exists (select from atm_internal.task t where t.pool_no = p.pool_no)
  union all
  select 'warning', format('storage pool %s was last listed %s ago', p.pool_name, date_trunc('second', clock_timestamp() - l.polled_at)),
         'See the poller''s log: no SPM, or VDSM does not answer'
    from atm_internal.pool p join atm_internal.pool_poll l on l.pool_no = p.pool_no
   where not p.removed and not l.idle and l.polled_at < clock_timestamp() - interval '5 min'
  union all
  select 'warning', format('storage pool %s: VDSM sent statuses that cannot be read', p.pool_name), 'See unreadable in atm.pools'
    from atm_internal.pool p join atm_internal.pool_poll l on l.pool_no = p.pool_no where l.unreadable is not null
  union all
  select 'critical', format('%s commands are end_failed', count(*)), 'See atm.stuck' from atm_internal.root r where r.state = 'end_failed' having count(*) > 0
  union all
  select 'critical', format('%s commands are set aside', count(*)), 'See atm.stuck' from atm_internal.set_aside having count(*) > 0
  union all
  select 'warning', format('%s tasks are in doubt for more than 15 minutes', count(*)), 'See atm.stuck'
    from atm_internal.watch w where w.kind = 'doubt' and w.since < clock_timestamp() - interval '15 min' having count(*) > 0
  union all
  select 'warning', format('%s commands are ended and not cleared for more than 15 minutes', count(*)), 'See atm.pools: VDSM has to clear their tasks'
    from atm_internal.root r where r.state = 'ended' and r.ended_at < clock_timestamp() - interval '15 min' having count(*) > 0
  union all
  select 'warning', 'no partition for the coming month', 'select atm.ensure_partitions()'
   where to_regclass(format('atm_internal.history_%s', to_char(now() + interval '1 month', 'YYYY_MM'))) is null
  union all
  select 'warning', format('the oldest transaction is %s old and holds back vacuum', date_trunc('second', clock_timestamp() - min(a.xact_start))), 'See pg_stat_activity'
    from pg_stat_activity a where a.xact_start < clock_timestamp() - interval '15 min' and a.backend_type = 'client backend' having count(*) > 0
  union all
  select 'warning', format('function %s may be executed by PUBLIC', p.oid::regprocedure), 'Load the functions again: pyatm db migrate'
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
   where n.nspname in ('atm', 'atm_internal')
     and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x where x.grantee = 0 and x.privilege_type = 'EXECUTE')
$$;
comment on function atm.check() is 'Findings that somebody should look at, with severity (critical, warning) and remedy; no row means that all is well.';
