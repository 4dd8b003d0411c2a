-- report_actions: what VDSM answered to the to-do list of a poll.
--
-- true to a clear: VDSM has forgotten the task. 401 to a clear or revert proves nothing by itself (during a failover it means "not loaded yet"):
-- the polls have to confirm it. Anything else is tried again with the next poll.
-- Lock order: pool_poll, roots by number, tasks. Peer: report_poll (120).

create or replace function atm.report_actions(token bigint, storage_pool_id uuid, actions jsonb) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_token alias for $1;
  p_storage_pool_id alias for $2;
  p_actions alias for $3;
  v_poll atm_internal.pool_poll;
  v_over bigint[];
  v_root_nos bigint[];
  v_cleared integer[];
  v_applied integer := 0;
  v_orphans integer;
begin
  if num_nulls(p_token, p_storage_pool_id, p_actions) > 0 then
    perform atm_internal.refuse_null('report_actions', jsonb_build_object(
      'token', p_token, 'storage_pool_id', p_storage_pool_id, 'actions', p_actions));
  end if;
  perform atm_internal.check_actions(p_actions);
  v_poll := atm_internal.leased_pool(p_token, p_storage_pool_id);
  update atm_internal.pool_poll l set reported_at = clock_timestamp(), lease_until = clock_timestamp() + l.lease
   where l.pool_no = v_poll.pool_no;

  perform atm_internal.lock_roots(array(
    select distinct t.root_no
      from jsonb_to_recordset(p_actions) a (vdsm_task_id uuid, action text)
      join atm_internal.task t on t.vdsm_task_id = a.vdsm_task_id and t.pool_no = v_poll.pool_no));
  with act as materialized (
    select distinct t.root_no, t.task_no, a.action, a.ok, a.code
      from jsonb_to_recordset(p_actions) a (vdsm_task_id uuid, action text, ok boolean, code integer)
      join atm_internal.task t on t.vdsm_task_id = a.vdsm_task_id and t.pool_no = v_poll.pool_no
  ), clearing as materialized (
    select t.root_no, t.task_no, count(*) over (partition by t.root_no) = r.uncleared as is_over
      from (select distinct a.root_no, a.task_no from act a where a.action = 'clear' and a.ok) a
      join atm_internal.task t on t.root_no = a.root_no and t.task_no = a.task_no and t.cleared_at is null and t.state = 'done'
      join atm_internal.root r on r.root_no = t.root_no and r.state = 'ended'
  ), cleared as (    -- a root whose last tasks are among these is archived below, so its rows need not be written first
    update atm_internal.task t set cleared_at = clock_timestamp()
      from clearing c where t.root_no = c.root_no and t.task_no = c.task_no and not c.is_over
    returning t.root_no
  ), reverted as (
    delete from atm_internal.watch w using act a
     where w.root_no = a.root_no and w.task_no = a.task_no and w.kind = 'revert'
       and a.action = 'revert' and (a.ok or a.code = 441)
    returning w.root_no
  ), stopping as (
    insert into atm_internal.watch (root_no, task_no, kind, pool_no, since)
    select a.root_no, a.task_no, 'stop', v_poll.pool_no, clock_timestamp()
      from act a where a.action = 'stop' and (a.ok or a.code = 411)
    on conflict do nothing
    returning root_no
  ), per_root as (
    select x.root_no, sum(x.cleared)::integer as cleared, count(*)::integer as applied
      from (select c.root_no, 1 as cleared from cleared c
            union all select v.root_no, 0 from reverted v
            union all select s.root_no, 0 from stopping s) x
     group by x.root_no
  )
  select array_agg(p.root_no), array_agg(p.cleared),
         coalesce(sum(p.applied), 0) + (select count(*) from clearing c where c.is_over),
         (select array_agg(distinct c.root_no) from clearing c where c.is_over)
    into v_root_nos, v_cleared, v_applied, v_over
    from per_root p;
  perform atm_internal.archive_apart(v_over);
  if v_root_nos is not null then
    perform atm_internal.count_cleared(v_root_nos, v_cleared);
    perform atm_internal.end_reverted(v_root_nos);
  end if;

  -- Orphans, the seldom case.
  perform atm_internal.end_orphan(u.vdsm_task_id, 'cleared')
     from jsonb_to_recordset(p_actions) a (vdsm_task_id uuid, action text, ok boolean)
     join atm_internal.unknown u on u.vdsm_task_id = a.vdsm_task_id and u.pool_no = v_poll.pool_no
    where a.action = 'clear' and a.ok;
  get diagnostics v_orphans = row_count;
  return v_applied + v_orphans;
end
$$;

comment on function atm.report_actions(bigint, uuid, jsonb) is
$$Reports what VDSM answered to the actions that atm.report_poll returned, in bulk.
  token            the poller's
  storage_pool_id  the pool
  actions          [{"vdsm_task_id": uuid, "action": "stop"|"revert"|"clear", "ok": bool, "code": int, "message": text}]; code and message may be left out when ok
Returns the number of actions that changed something. An action that failed is returned again by a later report_poll. A revert counts as done with ok or 441, a stop
with ok or 411. 401 counts only when polls confirm it. Errors: AT001 to AT004; AT008; AT202. Locks the pool's poll row, roots in order, their tasks.$$;

create or replace function atm_internal.check_actions(p_actions jsonb) returns void
language plpgsql as $$
declare
  v_action jsonb;
  v_path text;
  v_index integer;
begin
  -- Nearly always all is well: one look at all of them. coalesce, because a missing key makes NULL.
  if jsonb_typeof(p_actions) = 'array' and not exists (
       select from jsonb_array_elements(p_actions) a
        where not coalesce(
          jsonb_typeof(a.value) = 'object' and a.value - '{vdsm_task_id,action,ok,code,message,task_id}'::text[] = '{}'
          and a.value ->> 'vdsm_task_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
          and a.value ->> 'action' in ('stop', 'revert', 'clear')
          and jsonb_typeof(a.value -> 'ok') = 'boolean'
          and (a.value ->> 'code' ~ '^-?[0-9]{1,9}$') is not false, false)) then
    return;
  elsif jsonb_typeof(p_actions) <> 'array' then
    perform atm_internal.refuse_value('actions', 'an array', p_actions);
  end if;
  for v_action, v_index in select a.value, a.ordinality - 1 from jsonb_array_elements(p_actions) with ordinality a loop
    v_path := format('actions[%s]', v_index);
    if jsonb_typeof(v_action) <> 'object' then
      perform atm_internal.refuse_value(v_path, 'an object', v_action);
    end if;
    perform atm_internal.check_keys(v_action, v_path, '{vdsm_task_id,action,ok,code,message,task_id}');
    perform atm_internal.check_key(v_action, v_path, 'vdsm_task_id', 'uuid', true);
    perform atm_internal.check_key(v_action, v_path, 'action', 'text', true);
    perform atm_internal.check_key(v_action, v_path, 'ok', 'boolean', true);
    if v_action ->> 'action' not in ('stop', 'revert', 'clear') then
      perform atm_internal.refuse_value(v_path || '.action', 'stop, revert or clear', v_action -> 'action');
    elsif v_action ->> 'code' !~ '^-?[0-9]{1,9}$' then
      perform atm_internal.refuse_value(v_path || '.code', 'an integer', v_action -> 'code');
    end if;
  end loop;
end
$$;
