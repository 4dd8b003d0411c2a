-- Submission: announcing tasks, binding VDSM's ids, refusals and doubts.
--
-- An engine announces a task (submitting) and commits before it sends the create; it binds VDSM's id after. What fences a
-- task is its own column epoch: start_engine takes it away, so a bind of an older incarnation finds no row.
-- Binding changes no root, so it locks none; a task that ends locks its root first (040_readiness.sql).

create or replace function atm.submit_tasks(epoch bigint, task_ids uuid[]) returns setof atm.task_state
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 5 as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_task_ids alias for $2;
begin
  if num_nulls(p_epoch, p_task_ids) > 0 or array_position(p_task_ids, null) is not null then
    perform atm_internal.refuse_null('submit_tasks', jsonb_build_object('epoch', p_epoch, 'task_ids', null));
  end if;
  perform atm_internal.require_own_tasks(p_epoch, p_task_ids);
  perform from atm_internal.task t where t.task_id = any (p_task_ids) order by t.task_id for no key update;
  -- After the wait for the locks: start_engine may have had them.
  if not atm_internal.is_current(p_epoch) then
    perform atm_internal.refuse_epoch(p_epoch);
  end if;
  perform atm_internal.announce(p_epoch, p_task_ids);
  return query
    select t.task_id, t.state::text
      from unnest(p_task_ids) with ordinality x (task_id, n)
      join atm_internal.task t on t.task_id = x.task_id
     order by x.n;
end
$$;

comment on function atm.submit_tasks(bigint, uuid[]) is
$$Announces planned tasks, before the call to VDSM. Only tasks returned as submitting may be sent, only after the commit, and
only once per engine process: a repeated call returns submitting again.
  epoch     of the calling engine
  task_ids  the tasks
Returns task_id and state in the given order; a task that was aborted meanwhile is done.
Errors: AT001 NULL; AT008 no such live task; AT201 stale epoch or another engine's task. Locks the tasks in the order of their ids.$$;

-- Announces those of the tasks, locked in the order of their ids, that are planned.
create or replace function atm_internal.announce(p_epoch bigint, p_task_ids uuid[]) returns void
language plpgsql as $$
begin
  update atm_internal.task t set state = 'submitting', announced_at = clock_timestamp()
   where t.task_id = any (p_task_ids) and t.epoch = p_epoch and t.state = 'planned';
end
$$;

-- Raises unless all tasks exist and belong to the engine of p_epoch.
create or replace function atm_internal.require_own_tasks(p_epoch bigint, p_task_ids uuid[]) returns void
language plpgsql as $$
declare
  v_task_id uuid;
  v_epoch bigint;
begin
  select x.id, r.epoch into v_task_id, v_epoch
    from unnest(p_task_ids) x (id)
    left join atm_internal.task t on t.task_id = x.id
    left join atm_internal.root r on r.root_no = t.root_no
   where r.epoch is distinct from p_epoch
   limit 1;
  if found and v_epoch is null then
    raise exception 'there is no live task %', v_task_id using errcode = 'AT008', hint = 'See atm.tasks and atm.history.';
  elsif found then
    raise exception 'task % belongs to another engine', v_task_id
      using errcode = 'AT201', hint = 'Only the engine that planned a task submits and binds it.';
  end if;
end
$$;

create or replace function atm.bind_task(
  epoch bigint, task_id uuid, vdsm_task_id uuid, submit_next uuid[] default '{}'
) returns setof atm.task_state
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 2 as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_task_id alias for $2;
  p_vdsm_task_id alias for $3;
  p_next alias for $4;
  v_changed integer;
  v_next uuid;
begin
  if num_nulls(p_epoch, p_task_id, p_vdsm_task_id, p_next) > 0 then
    perform atm_internal.refuse_null('bind_task', jsonb_build_object(
      'epoch', p_epoch, 'task_id', p_task_id, 'vdsm_task_id', p_vdsm_task_id, 'submit_next', p_next));
  end if;
  -- One statement binds the one and announces the others.
  update atm_internal.task t set
    state        = case when t.task_id = p_task_id then 'running'::atm_internal.task_state else 'submitting' end,
    vdsm_task_id = case when t.task_id = p_task_id then p_vdsm_task_id end,
    bound_at     = case when t.task_id = p_task_id then clock_timestamp() end,
    announced_at = case when t.task_id = p_task_id then t.announced_at else clock_timestamp() end
   where t.task_id = any (p_task_id || p_next)
     and t.state = case when t.task_id = p_task_id then 'submitting'::atm_internal.task_state else 'planned' end
     and t.epoch = p_epoch
     and exists (select from atm_internal.engine e where e.epoch = p_epoch)
     and not exists (select from atm_internal.task b where b.vdsm_task_id = p_vdsm_task_id);
  get diagnostics v_changed = row_count;
  if v_changed = 1 + cardinality(p_next) then
    return next row(p_task_id, 'running')::atm.task_state;
    foreach v_next in array p_next loop
      return next row(v_next, 'submitting')::atm.task_state;
    end loop;
    return;
  end if;
  -- Not all of it was done. What was done already is done again here without effect.
  perform atm_internal.bind_seldom(p_epoch, p_task_id, p_vdsm_task_id, p_next);
  return query
    select t.task_id, t.state::text from atm_internal.task t where t.task_id = p_task_id
    union all
    select t.task_id, t.state::text
      from unnest(p_next) with ordinality x (task_id, n)
      join atm_internal.task t on t.task_id = x.task_id and t.task_id <> p_task_id;
end
$$;

comment on function atm.bind_task(bigint, uuid, uuid, uuid[]) is
$$Binds the id that VDSM gave to a task, and announces the next ones: one commit, so a flow of N tasks costs N + 1.
  epoch         of the calling engine
  task_id       a task that was announced (submitting, or in_doubt by atm.doubt_task of this same engine)
  vdsm_task_id  VDSM's answer to the create
  submit_next   tasks to announce in the same commit; those returned as submitting may be sent after it
Returns task_id and state of the bound task and of each next one. It never fails because of submit_next or because the root was aborted. The same bind
again is harmless.
Errors: AT001 NULL; AT008 no such live task; AT104 the task was never announced, is bound to another id or is over; AT105 the VDSM id belongs to another
task; AT201 stale epoch. Locks the task, no root.$$;

-- The seldom cases of a bind: a task in doubt, a repeated bind, a next task that is not planned any more, and everything that is refused.
create or replace function atm_internal.bind_seldom(
  p_epoch bigint, p_task_id uuid, p_vdsm_task_id uuid, p_next uuid[]
) returns void
language plpgsql as $$
declare
  v_task atm_internal.task;
begin
  if not atm_internal.is_current(p_epoch) then
    perform atm_internal.refuse_epoch(p_epoch);
  elsif exists (select from atm_internal.task t where t.vdsm_task_id = p_vdsm_task_id and t.task_id <> p_task_id) then
    raise exception 'VDSM task % is bound to another task', p_vdsm_task_id
      using errcode = 'AT105', hint = 'See atm.tasks where vdsm_task_id is this.';
  end if;
  perform atm_internal.require_own_tasks(p_epoch, array[p_task_id]);
  select t.* into v_task from atm_internal.task t where t.task_id = p_task_id for no key update;
  if not atm_internal.is_current(p_epoch) then    -- start_engine had the lock
    perform atm_internal.refuse_epoch(p_epoch);
  elsif v_task.vdsm_task_id = p_vdsm_task_id then
    null;   -- the same bind again
  elsif v_task.state in ('submitting', 'in_doubt') and v_task.epoch = p_epoch then
    update atm_internal.task t set state = 'running', vdsm_task_id = p_vdsm_task_id, bound_at = clock_timestamp()
     where t.task_id = p_task_id;
    delete from atm_internal.watch w where w.root_no = v_task.root_no and w.task_no = v_task.task_no and w.kind = 'doubt';
  else
    raise exception 'task % is %: it cannot be bound to VDSM task %', p_task_id,
        coalesce(v_task.outcome::text, v_task.state::text), p_vdsm_task_id
      using errcode = 'AT104',
            detail = case
              when v_task.vdsm_task_id is not null then format('It is bound to VDSM task %s.', v_task.vdsm_task_id)
              when v_task.state = 'planned' then 'It was never announced.'
              when v_task.epoch is null then 'Its engine was started again since it was announced, or it is over.'
              else 'Its state does not allow it.' end,
            hint = 'The VDSM task will be followed and cleared as an orphan.';
  end if;
  perform from atm_internal.task t where t.task_id = any (p_next) order by t.task_id for no key update;
  perform atm_internal.announce(p_epoch, p_next);
end
$$;

-- Locks the root of a task of this engine, then the task.
create or replace function atm_internal.lock_own_task(p_epoch bigint, p_task_id uuid) returns atm_internal.task
language plpgsql as $$
declare
  v_task atm_internal.task;
begin
  perform atm_internal.require_own_tasks(p_epoch, array[p_task_id]);
  select t.* into v_task from atm_internal.task t where t.task_id = p_task_id;
  perform atm_internal.lock_roots(array[v_task.root_no]);
  -- After the wait for the lock: start_engine may have had it.
  if not atm_internal.is_current(p_epoch) then
    perform atm_internal.refuse_epoch(p_epoch);
  end if;
  select t.* into v_task from atm_internal.task t where t.task_id = p_task_id for no key update;
  return v_task;
end
$$;

create or replace function atm.fail_task(epoch bigint, task_id uuid, reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_task_id alias for $2;
  p_reason alias for $3;
  v_task atm_internal.task;
begin
  if num_nulls(p_epoch, p_task_id) > 0 then
    perform atm_internal.refuse_null('fail_task', jsonb_build_object('epoch', p_epoch, 'task_id', p_task_id));
  end if;
  perform atm_internal.require_reason('fail_task', p_reason);
  v_task := atm_internal.lock_own_task(p_epoch, p_task_id);
  if v_task.state in ('submitting', 'in_doubt') and v_task.epoch = p_epoch then
    update atm_internal.task t set vdsm_message = p_reason where t.task_id = p_task_id;
    perform atm_internal.write_note(v_task.root_no, 'refused by VDSM', p_reason, v_task.task_no);
    perform atm_internal.close_unbound(array[v_task.root_no], array[v_task.task_no], '{submitting,in_doubt}', 'failed');
    return 'done';
  elsif v_task.state = 'done' and v_task.outcome = 'failed' and v_task.vdsm_task_id is null then
    return 'done';
  end if;
  raise exception 'task % is %: VDSM cannot have refused it', p_task_id, v_task.state
    using errcode = 'AT104', hint = 'Only a task that was announced and is not bound can be refused.';
end
$$;

comment on function atm.fail_task(bigint, uuid, text) is
$$Says that VDSM has refused the create of an announced task, so no VDSM task exists. The task is done with outcome failed.
  epoch    of the calling engine
  task_id  a task that is submitting or in_doubt
  reason   VDSM's code and message
Returns done. Repeating it changes nothing. When the answer is unknown, call atm.doubt_task instead.
Errors: AT001 NULL or no reason; AT008; AT104 wrong state; AT201 stale epoch. Locks the root, then the task. NOTIFY: atm_ready.$$;

create or replace function atm.doubt_task(epoch bigint, task_id uuid, reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_task_id alias for $2;
  p_reason alias for $3;
  v_task atm_internal.task;
begin
  if num_nulls(p_epoch, p_task_id) > 0 then
    perform atm_internal.refuse_null('doubt_task', jsonb_build_object('epoch', p_epoch, 'task_id', p_task_id));
  end if;
  perform atm_internal.require_reason('doubt_task', p_reason);
  v_task := atm_internal.lock_own_task(p_epoch, p_task_id);
  if v_task.state = 'submitting' and v_task.epoch = p_epoch then
    update atm_internal.task t set state = 'in_doubt' where t.task_id = p_task_id;
    insert into atm_internal.watch (root_no, task_no, kind, pool_no, since)
    values (v_task.root_no, v_task.task_no, 'doubt', v_task.pool_no, clock_timestamp());
    perform atm_internal.write_note(v_task.root_no, 'in doubt', p_reason, v_task.task_no);
    return 'in_doubt';
  elsif v_task.state = 'in_doubt' then
    return 'in_doubt';
  end if;
  raise exception 'task % is %: there is nothing to doubt', p_task_id, v_task.state
    using errcode = 'AT104', hint = 'Only an announced task whose answer did not come is in doubt.';
end
$$;

comment on function atm.doubt_task(bigint, uuid, text) is
$$Says that the answer to the create of an announced task is unknown: time-out, lost connection, or sent too late. The task is in_doubt
until this same engine binds or fails it after all, or until the polls have shown that VDSM does not have it.
  epoch    of the calling engine
  task_id  a task that is submitting
  reason   what happened
Returns in_doubt. Repeating it changes nothing.
Errors: AT001 NULL or no reason; AT008; AT104 wrong state; AT201 stale epoch. Locks the root, then the task.$$;
