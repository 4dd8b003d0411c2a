-- The operator: every action takes a reason, is audited, shows first what it would do, and goes through the same state machine.
--
-- A cancelled or resolved command still gets its endAction, with failure; entities are released only by the end of the root.
-- Lock order: root, then tasks.

-- Locks the root of a live command, by the id of any of its commands.
create or replace function atm_internal.lock_command(p_command_id uuid) returns atm_internal.root
language plpgsql as $$
declare
  v_root_no bigint;
  v_root atm_internal.root;
begin
  select c.root_no into v_root_no from atm_internal.command c where c.command_id = p_command_id;
  if found then
    select r.* into v_root from atm_internal.root r where r.root_no = v_root_no for no key update;
  end if;
  if v_root.root_no is null then
    raise exception 'there is no live command %', p_command_id
      using errcode = 'AT008',
            hint = case when exists (select from atm_internal.archived a where a.command_id = p_command_id)
                     then 'It is over; see atm.history.' else 'See atm.commands.' end;
  end if;
  return v_root;
end
$$;

create or replace function atm.cancel_command(command_id uuid, reason text, dry_run boolean default true)
returns table (task_id uuid, state text, effect text)
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 5 as $$
#variable_conflict use_column
declare
  p_command_id alias for $1;
  p_reason alias for $2;
  p_dry_run alias for $3;
  v_root atm_internal.root;
begin
  if num_nulls(p_command_id, p_dry_run) > 0 then
    perform atm_internal.refuse_null('cancel_command', jsonb_build_object('command_id', p_command_id, 'dry_run', p_dry_run));
  end if;
  perform atm_internal.require_reason('cancel_command', p_reason);
  v_root := atm_internal.lock_command(p_command_id);
  if v_root.state not in ('open', 'sealed', 'end_failed') then
    raise exception 'command % is %: there is nothing to cancel any more', p_command_id, v_root.state
      using errcode = 'AT107', hint = 'Its endAction is on its way; if that gives up, the command becomes end_failed.';
  end if;
  if not p_dry_run then
    -- An engine announces tasks without the root's lock: what is told below must be what is done.
    perform from atm_internal.task t where t.root_no = v_root.root_no and t.state = 'planned' order by t.task_id for no key update;
  end if;
  return query
    select t.task_id, t.state::text,
           case t.state
             when 'planned' then 'ends now, was never sent'
             when 'submitting' then 'is stopped at VDSM when its engine has bound it'
             when 'in_doubt' then 'is followed until it is settled'
             when 'running' then 'is stopped at VDSM'
             else 'is over'
           end
      from atm_internal.task t where t.root_no = v_root.root_no order by t.task_no;
  if p_dry_run then
    return;
  end if;
  perform atm_internal.write_audit('cancel_command', p_command_id::text, p_reason, jsonb_build_object('state', v_root.state));
  perform atm_internal.write_note(v_root.root_no, 'cancelled', p_reason);
  if v_root.state = 'end_failed' then
    perform atm_internal.end_root(v_root.root_no);
  else
    perform atm_internal.abort_root(v_root.root_no, true);
  end if;
end
$$;

comment on function atm.cancel_command(uuid, text, boolean) is
$$Cancels a command: planned tasks end, running ones are stopped at VDSM, a submitting one when its engine has spoken; then its endAction runs with failure. On an
end_failed command it ends the command without endAction and frees its entities.
  command_id  the root or any of its children
  reason      why; kept in atm.audit and shown by atm.explain
  dry_run     true: only show what would happen
Returns one row per task: task_id, state before, effect. Errors: AT001; AT008; AT107 it is ready or ending. Locks the root, then its tasks.$$;

create or replace function atm.resolve_task(task_id uuid, outcome text, reason text, dry_run boolean default true) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_task_id alias for $1;
  p_outcome alias for $2;
  p_reason alias for $3;
  p_dry_run alias for $4;
  v_task atm_internal.task;
begin
  if num_nulls(p_task_id, p_outcome, p_dry_run) > 0 then
    perform atm_internal.refuse_null('resolve_task', jsonb_build_object('task_id', p_task_id, 'outcome', p_outcome, 'dry_run', p_dry_run));
  elsif p_outcome not in ('failed', 'lost') then
    raise exception 'atm.resolve_task: argument outcome must be failed or lost, is %', quote_literal(p_outcome) using errcode = 'AT001';
  end if;
  perform atm_internal.require_reason('resolve_task', p_reason);
  select t.* into v_task from atm_internal.task t where t.task_id = p_task_id;
  if not found then
    raise exception 'there is no live task %', p_task_id using errcode = 'AT008', hint = 'See atm.tasks and atm.history.';
  end if;
  perform atm_internal.lock_roots(array[v_task.root_no]);
  select t.* into v_task from atm_internal.task t where t.task_id = p_task_id for no key update;
  if v_task.task_id is null or v_task.state not in ('in_doubt', 'running') then
    raise exception 'task % is %: there is nothing to resolve', p_task_id, coalesce(v_task.state::text, 'gone')
      using errcode = 'AT104',
            hint = case v_task.state
                     when 'planned' then 'Cancel its command; it was never sent.'
                     when 'submitting' then 'Its engine is about to bind it; if that engine is gone, start it again (atm.start_engine).'
                     else 'It is over.' end;
  end if;
  if p_dry_run then
    return format('would be done: %s, was %s', p_outcome, v_task.state);
  end if;
  perform atm_internal.write_audit('resolve_task', p_task_id::text, p_reason, jsonb_build_object(
    'state', v_task.state, 'outcome', p_outcome, 'vdsm_task_id', v_task.vdsm_task_id, 'vdsm_state', v_task.vdsm_state));
  perform atm_internal.write_note(v_task.root_no, 'task resolved to ' || p_outcome, p_reason, v_task.task_no);
  -- What VDSM does is another fact: the task is not cleared by this, a doubt is watched on, and can_compensate stays false until VDSM has spoken.
  update atm_internal.task t set
    state = 'done', outcome = p_outcome::atm_internal.task_outcome, done_at = clock_timestamp(), epoch = null
   where t.task_id = p_task_id;
  perform atm_internal.count_down(array[v_task.root_no], array[1], array[true]);
  return 'done: ' || p_outcome;
end
$$;

comment on function atm.resolve_task(uuid, text, text, boolean) is
$$Ends the wait for a task that VDSM will never report, by an operator's word. The command still gets its endAction, with failure. What VDSM does with the task is followed as
before; atm.can_compensate stays false until VDSM has ended, lost or provably never had it.
  task_id  a task that is running or in_doubt
  outcome  failed or lost
  reason   why; kept in atm.audit
  dry_run  true: only say what would happen
Errors: AT001; AT008; AT104 another state. Locks the root, then the task. NOTIFY: atm_ready.$$;

create or replace function atm.retry_end_action(command_id uuid, reason text, dry_run boolean default true) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_command_id alias for $1;
  p_reason alias for $2;
  p_dry_run alias for $3;
  v_root atm_internal.root;
begin
  if num_nulls(p_command_id, p_dry_run) > 0 then
    perform atm_internal.refuse_null('retry_end_action', jsonb_build_object('command_id', p_command_id, 'dry_run', p_dry_run));
  end if;
  perform atm_internal.require_reason('retry_end_action', p_reason);
  v_root := atm_internal.lock_command(p_command_id);
  if v_root.state <> 'end_failed' and not (v_root.state = 'ready' and v_root.due_at > clock_timestamp()) then
    raise exception 'command % is %: its endAction has not given up', p_command_id, v_root.state
      using errcode = 'AT107', hint = 'Only an end_failed command, or one that waits for its next attempt, can be retried.';
  end if;
  if p_dry_run then
    return 'would be ready';
  end if;
  perform atm_internal.write_audit('retry_end_action', p_command_id::text, p_reason, jsonb_build_object('state', v_root.state, 'attempts', v_root.attempt));
  perform atm_internal.write_note(v_root.root_no, 'endAction to be retried', p_reason);
  update atm_internal.root r set state = 'ready', attempt = 0, due_at = clock_timestamp() where r.root_no = v_root.root_no;
  perform atm_internal.hint('atm_ready');
  return 'ready';
end
$$;

comment on function atm.retry_end_action(uuid, text, boolean) is
$$Offers the endAction of an end_failed command again, with its attempts counted from zero; or ends the wait of one that is to be retried later.
  command_id  the root or any of its children
  reason      why; kept in atm.audit
  dry_run     true: only say what would happen
Returns the state. Errors: AT001; AT008; AT107. Locks the root. NOTIFY: atm_ready.$$;

create or replace function atm.resolve_orphan(vdsm_task_id uuid, reason text, dry_run boolean default true) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_vdsm_task_id alias for $1;
  p_reason alias for $2;
  p_dry_run alias for $3;
  v_unknown atm_internal.unknown;
begin
  if num_nulls(p_vdsm_task_id, p_dry_run) > 0 then
    perform atm_internal.refuse_null('resolve_orphan', jsonb_build_object('vdsm_task_id', p_vdsm_task_id, 'dry_run', p_dry_run));
  end if;
  perform atm_internal.require_reason('resolve_orphan', p_reason);
  select u.* into v_unknown from atm_internal.unknown u where u.vdsm_task_id = p_vdsm_task_id for no key update;
  if not found then
    raise exception 'there is no orphan %', p_vdsm_task_id using errcode = 'AT008', hint = 'See atm.orphans.';
  elsif exists (select from atm_internal.live_suspect s where s.vdsm_task_id = p_vdsm_task_id and s.may_bind) then
    raise exception 'VDSM task % may still be bound by a running engine', p_vdsm_task_id
      using errcode = 'AT104', hint = 'Wait until the engine has bound or doubted its announced tasks; see atm.orphans.';
  end if;
  if p_dry_run then
    return format('would be resolved: VDSM says %s', v_unknown.vdsm_state);
  end if;
  perform atm_internal.write_audit('resolve_orphan', p_vdsm_task_id::text, p_reason, jsonb_build_object('vdsm_state', v_unknown.vdsm_state));
  update atm_internal.unknown u set resolved_at = clock_timestamp() where u.vdsm_task_id = p_vdsm_task_id;
  return 'resolved';
end
$$;

comment on function atm.resolve_orphan(uuid, text, boolean) is
$$Says that nobody waits for an orphan: tasks in doubt are settled without it. It is still followed, and cleared when it finishes.
  vdsm_task_id  of atm.orphans
  reason        why; kept in atm.audit
  dry_run       true: only say what would happen
Returns resolved. Errors: AT001; AT008; AT104 an engine may still bind it. Locks the orphan.$$;
