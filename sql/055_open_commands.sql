-- Commands that are not over: adding tasks, sealing, aborting.
--
-- An open root takes more tasks: each addition is a part of its plan, with the same rows and the same admission as the first one
-- (050_planning.sql). Sealing and aborting end that; who counts, count_down, decides what comes then (040_readiness.sql).
-- Lock order: the root first, then the pools of what is added (key share), then the new rows; entities in key order.

create or replace function atm.add_tasks(epoch bigint, command_id uuid, plan jsonb)
returns setof atm.planned_task
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 10 as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_command_id alias for $2;
  p_plan alias for $3;
  v_root atm_internal.root;
  v_command atm_internal.command;
  v_flat atm_internal.flat_plan;
  v_part atm_internal.plan;
  v_next_command integer;
  v_next_task integer;
  v_part_no integer;
  v_state text;
  v_constraint text;
begin
  if num_nulls(p_epoch, p_command_id, p_plan) > 0 then
    perform atm_internal.refuse_null('add_tasks', jsonb_build_object('epoch', p_epoch, 'command_id', p_command_id, 'plan', p_plan));
  end if;
  v_command := atm_internal.open_command('add_tasks', p_epoch, p_command_id);
  select r.* into v_root from atm_internal.root r where r.root_no = v_command.root_no;
  select coalesce(max(c.command_no), -1) + 1 into v_next_command from atm_internal.command c where c.root_no = v_root.root_no;
  select coalesce(max(t.task_no), -1) + 1 into v_next_task from atm_internal.task t where t.root_no = v_root.root_no;
  v_flat := atm_internal.flatten_plan(
    p_plan, v_command.command_no,
    coalesce(v_command.ancestors, '{}') || case when v_command.command_no > 0 then array[v_command.command_no] else '{}' end,
    v_next_command, v_next_task);

  -- Again the same? Tasks carry the identity of an addition.
  select p.* into v_part
    from atm_internal.plan p
   where p.root_no = v_root.root_no and p.part_no > 0 and p.command_no = v_command.command_no
     and (p.document = p_plan
          or exists (select from unnest(v_flat.tasks) t
                      where p.document @> '{}' and t.task_id::text in (
                        select jsonb_path_query(p.document, '$.**.task_id') #>> '{}')))
   order by p.part_no limit 1;
  if found then
    if v_part.document <> p_plan then
      raise exception 'these tasks were added already, with another plan'
        using errcode = 'AT101', detail = 'First difference: ' || atm_internal.first_difference(v_part.document, p_plan, 'plan'),
              hint = 'Repeat the addition as it was given, or use new task ids.';
    end if;
    return query
      select s.* from atm_internal.planned_tasks(v_root.root_no) s
       where s.task_id in (select t.task_id from unnest(v_flat.tasks) t);
    return;
  end if;
  if v_root.state <> 'open' then
    raise exception 'command % is % and takes no more tasks', p_command_id, v_root.state
      using errcode = 'AT103', hint = 'Plan it with "seal": false to add tasks later.';
  end if;
  if pg_column_size(p_plan) > (select s.parameters_limit from atm_internal.setting s) then
    perform atm_internal.check_parameters_size(p_plan, (select s.parameters_limit from atm_internal.setting s));
  end if;
  select coalesce(max(p.part_no), 0) + 1 into v_part_no from atm_internal.plan p where p.root_no = v_root.root_no;
  begin
    perform atm_internal.lock_pools(v_flat);
    perform atm_internal.merge_holds(v_root.root_no, v_flat.entities);
    perform atm_internal.insert_plan(v_root.root_no, v_part_no, v_command.command_no, p_epoch, clock_timestamp(), p_plan,
                                     row(v_flat.nodes, v_flat.tasks, '{}'::atm_internal.plan_entity[], v_flat.generated)::atm_internal.flat_plan);
  exception
    when unique_violation or exclusion_violation or foreign_key_violation then
      get stacked diagnostics v_state = returned_sqlstate, v_constraint = constraint_name;
      perform atm_internal.refuse_plan(p_epoch, v_flat, v_root.root_no, v_state, v_constraint, sqlerrm);
  end;
  update atm_internal.root r set
    open_tasks = r.open_tasks + cardinality(v_flat.tasks),
    pool_no = case
      when (select count(distinct t.pool_no) from atm_internal.task t where t.root_no = r.root_no) = 1
      then (select min(t.pool_no) from atm_internal.task t where t.root_no = r.root_no)
    end
   where r.root_no = v_root.root_no;
  return query select * from atm_internal.planned_tasks(v_root.root_no, v_next_task);
end
$$;

comment on function atm.add_tasks(bigint, uuid, jsonb) is
$$Adds tasks and children below a command of a root that was planned with "seal": false.
  epoch       of the calling engine
  command_id  the command, root or child, below which they come
  plan        {"tasks": [], "children": []} as in atm.plan_command; each task_id is required
Returns one row per added task. The same addition again returns its rows.
Errors: as atm.plan_command; AT008 no such command; AT101 added before with another plan; AT103 the root is sealed or over; AT201 stale epoch.
Locks the root.$$;

-- Holds of an addition join those of the root; the stronger access wins.
create or replace function atm_internal.merge_holds(p_root_no bigint, p_entities atm_internal.plan_entity[]) returns void
language plpgsql as $$
declare
  v_new record;
begin
  -- One by one in the order of the keys: two additions that want the same entities cannot wait for each other.
  for v_new in
    select e.entity_type, e.entity_id, max(e.access) as access,
           array_agg(distinct e.command_no) filter (where e.command_no is not null) as command_nos,
           array_agg(distinct e.task_no) filter (where e.task_no is not null) as task_nos
      from unnest(p_entities) e
     group by e.entity_type, e.entity_id
   order by e.entity_type, e.entity_id
  loop
    update atm_internal.hold h set
      access      = greatest(h.access, v_new.access),
      command_nos = h.command_nos || v_new.command_nos,
      task_nos    = h.task_nos || v_new.task_nos
     where h.root_no = p_root_no and h.entity_type = v_new.entity_type and h.entity_id = v_new.entity_id;
    if not found then
      insert into atm_internal.hold (root_no, entity_type, entity_id, access, command_nos, task_nos)
      values (p_root_no, v_new.entity_type, v_new.entity_id, v_new.access, v_new.command_nos, v_new.task_nos);
    end if;
  end loop;
end
$$;

-- Locks the root of a command that the engine of p_epoch may change; returns the command.
create or replace function atm_internal.open_command(p_function text, p_epoch bigint, p_command_id uuid)
returns atm_internal.command
language plpgsql as $$
declare
  v_command atm_internal.command;
  v_epoch bigint;
begin
  if not atm_internal.is_current(p_epoch) then
    perform atm_internal.refuse_epoch(p_epoch);
  end if;
  select c.* into v_command from atm_internal.command c where c.command_id = p_command_id;
  if not found then
    raise exception 'atm.%: there is no live command %', p_function, p_command_id
      using errcode = 'AT008',
            hint = case when exists (select from atm_internal.history h where h.command_id = p_command_id)
                     then 'It is in atm.history.' else 'See atm.commands.' end;
  end if;
  select r.epoch into v_epoch from atm_internal.root r where r.root_no = v_command.root_no for no key update;
  if not found then
    raise exception 'command % has just ended', p_command_id using errcode = '40001', hint = 'Repeat the transaction.';
  elsif v_epoch <> p_epoch then
    raise exception 'command % belongs to another engine', p_command_id
      using errcode = 'AT201', hint = 'Only the engine that planned a command changes it.';
  end if;
  return v_command;
end
$$;

create or replace function atm.seal_command(epoch bigint, command_id uuid) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_command_id alias for $2;
  v_command atm_internal.command;
begin
  if num_nulls(p_epoch, p_command_id) > 0 then
    perform atm_internal.refuse_null('seal_command', jsonb_build_object('epoch', p_epoch, 'command_id', p_command_id));
  end if;
  v_command := atm_internal.open_command('seal_command', p_epoch, p_command_id);
  update atm_internal.root r set state = 'sealed' where r.root_no = v_command.root_no and r.state = 'open';
  if found then
    perform atm_internal.count_down(array[v_command.root_no], array[0], array[false]);
  end if;
  return (select r.state::text from atm_internal.root r where r.root_no = v_command.root_no);
end
$$;

comment on function atm.seal_command(bigint, uuid) is
$$Says that no more tasks will be added to a root command: it becomes ready when all its tasks are done.
  epoch       of the calling engine
  command_id  the root command (a child seals its root)
Returns the root's state: sealed or, when no task is open, ready. Sealing again changes nothing.
Errors: AT001 NULL; AT008 no such live command; AT201 stale epoch or another engine's. Locks the root. NOTIFY: atm_ready.$$;

-- Aborts a locked root: seals it, ends what was never sent, marks it failed.
create or replace function atm_internal.abort_root(p_root_no bigint, p_stop boolean) returns void
language plpgsql as $$
begin
  update atm_internal.root r set
    state = 'sealed', aborted = true, stop = r.stop or p_stop, chores = r.chores or p_stop
   where r.root_no = p_root_no;
  perform atm_internal.close_unbound(array[p_root_no], null, '{planned}', 'not_submitted');
  perform atm_internal.count_down(array[r.root_no], array[0], array[false])
     from atm_internal.root r where r.root_no = p_root_no and r.state = 'sealed';
end
$$;

create or replace function atm.abort_command(
  epoch bigint, command_id uuid, reason text, stop_running boolean default false
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_command_id alias for $2;
  p_reason alias for $3;
  p_stop alias for $4;
  v_command atm_internal.command;
  v_state atm_internal.root_state;
begin
  if num_nulls(p_epoch, p_command_id, p_stop) > 0 then
    perform atm_internal.refuse_null('abort_command', jsonb_build_object(
      'epoch', p_epoch, 'command_id', p_command_id, 'stop_running', p_stop));
  end if;
  perform atm_internal.require_reason('abort_command', p_reason);
  v_command := atm_internal.open_command('abort_command', p_epoch, p_command_id);
  select r.state into v_state from atm_internal.root r where r.root_no = v_command.root_no;
  if v_state not in ('open', 'sealed') then
    raise exception 'command % is %: it cannot be aborted any more', p_command_id, v_state
      using errcode = 'AT107', hint = 'Its endAction decides what happens now.';
  end if;
  perform atm_internal.write_note(v_command.root_no, 'aborted', p_reason);
  perform atm_internal.abort_root(v_command.root_no, p_stop);
  return (select r.state::text from atm_internal.root r where r.root_no = v_command.root_no);
end
$$;

comment on function atm.abort_command(bigint, uuid, text, boolean) is
$$Gives a root command up: seals it, ends the tasks that were never sent, and lets it end with failure.
  epoch         of the calling engine
  command_id    the root command (a child aborts its root)
  reason        why; shown by atm.explain
  stop_running  true: VDSM is asked to stop the tasks that run; false: they are followed to their end
Returns the root's state. Tasks that are submitting stay so until the engine binds, fails or doubts them.
Errors: AT001 NULL or no reason; AT008 no such live command; AT107 it is ready or later; AT201 stale epoch or another engine's.
Locks the root, then its tasks. NOTIFY: atm_ready.$$;
