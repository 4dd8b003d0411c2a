-- Planning: the root command with all its tasks, in one transaction, before anything is sent.
--
-- A plan is five kinds of rows: root (what changes), command (the tree), task (a placeholder each), hold
-- (what the root holds; its exclusion constraint is the admission) and plan (the document, written once).
-- The epoch's foreign key makes a plan and start_engine wait for each other.
-- Lock order: pool (key share), pool_poll of idle pools, engine (key share, by the foreign key), then the new rows; entities in key order.

-- The rows of a root in plan order, as plan_command and add_tasks return them.
create or replace function atm_internal.planned_tasks(p_root_no bigint, p_from_task integer default 0)
returns setof atm.planned_task
language sql stable as $$
  select t.task_id, c.command_id, r.command_id, t.task_type, p.storage_pool_id, t.state::text
    from atm_internal.task t
    join atm_internal.command c on c.root_no = t.root_no and c.command_no = t.command_no
    join atm_internal.command r on r.root_no = t.root_no and r.command_no = 0
    join atm_internal.pool p on p.pool_no = t.pool_no
   where t.root_no = p_root_no and t.task_no >= p_from_task
   order by t.task_no
$$;

-- Inserts what a flattened document brings, in one statement; with part 0 the root, too, in p_state.
create or replace function atm_internal.insert_plan(
  p_root_no bigint, p_part_no integer, p_command_no integer, p_epoch bigint, p_planned_at timestamptz,
  p_plan jsonb, p_flat atm_internal.flat_plan, p_state atm_internal.root_state default null, p_pools integer[] default null
) returns void
language plpgsql as $$
declare
  v_tasks integer;
begin
  with new_root as (
    insert into atm_internal.root (root_no, epoch, created_at, state, open_tasks, pool_no)
    select p_root_no, p_epoch, p_planned_at, p_state, cardinality(p_flat.tasks),
           case when cardinality(p_pools) = 1 then p_pools[1] end
     where p_part_no = 0
  ), new_command as (
    insert into atm_internal.command (root_no, command_no, parent_no, ancestors, command_id, action_type)
    select p_root_no, n.command_no, nullif(n.parent_no, 0), n.ancestors, n.command_id, n.action_type
      from unnest(p_flat.nodes) n
  ), new_task as (
    insert into atm_internal.task (task_id, root_no, command_no, task_no, pool_no, task_type, state, epoch, announced_at)
    select t.task_id, p_root_no, t.command_no, t.task_no, p.pool_no, t.task_type,
           case when t.submit then 'submitting'::atm_internal.task_state else 'planned' end, p_epoch,
           case when t.submit then clock_timestamp() end
      from unnest(p_flat.tasks) t
      join atm_internal.pool p on p.storage_pool_id = t.storage_pool_id and not p.removed and not p.drained
     order by t.task_no
    returning task_no
  ), new_hold as (
    insert into atm_internal.hold (root_no, entity_type, entity_id, access, command_nos, task_nos)
    select p_root_no, e.entity_type, e.entity_id, max(e.access),
           array_agg(distinct e.command_no) filter (where e.command_no is not null),
           array_agg(distinct e.task_no) filter (where e.task_no is not null)
      from unnest(p_flat.entities) e
     group by e.entity_type, e.entity_id
     order by e.entity_type, e.entity_id
  ), new_plan as (
    insert into atm_internal.plan (root_no, part_no, planned_at, command_no, document, task_ids, command_ids)
    values (p_root_no, p_part_no, p_planned_at, p_command_no, p_plan,
            case when p_flat.generated then (select array_agg(t.task_id order by t.task_no) from unnest(p_flat.tasks) t) end,
            case when p_flat.generated then (select array_agg(n.command_id order by n.command_no) from unnest(p_flat.nodes) n) end)
  )
  select count(*) into v_tasks from new_task;
  if v_tasks <> cardinality(p_flat.tasks) then
    perform atm_internal.refuse_pools(p_flat);
  end if;
end
$$;

-- Locks the pools of a plan's tasks and returns them; idle pools get work, and their pollers are told, once.
-- The lock (key share, as the foreign keys take it later) makes a plan and remove_pool or drain_pool wait for each other; the next
-- statement sees what they have done.
create or replace function atm_internal.lock_pools(p_flat atm_internal.flat_plan) returns integer[]
language plpgsql as $$
declare
  v_pools integer[];
  v_idle boolean;
begin
  select array_agg(l.pool_no), bool_or(l.idle) into v_pools, v_idle
    from (select l.pool_no, l.idle
            from atm_internal.pool p
            join atm_internal.pool_poll l on l.pool_no = p.pool_no
           where p.storage_pool_id in (select t.storage_pool_id from unnest(p_flat.tasks) t)
             for key share of p) l;
  if v_idle then
    -- A row that is locked is left alone: its poller is awake, and waiting for it would turn the lock order around.
    update atm_internal.pool_poll p set idle = false
     where p.pool_no in (select l.pool_no from atm_internal.pool_poll l
                          where l.idle and l.pool_no = any (v_pools)
                            for no key update skip locked);
    perform atm_internal.hint('atm_work');
  end if;
  return v_pools;
end
$$;

create or replace function atm_internal.refuse_pools(p_flat atm_internal.flat_plan) returns void
language plpgsql as $$
declare
  v_pool uuid;
  v_drained boolean;
begin
  select t.storage_pool_id, coalesce(p.drained and not p.removed, false) into v_pool, v_drained
    from unnest(p_flat.tasks) t
    left join atm_internal.pool p on p.storage_pool_id = t.storage_pool_id
   where p.pool_no is null or p.removed or p.drained
   order by t.task_no limit 1;
  if v_drained then
    raise exception 'storage pool % is being drained and takes no new tasks', v_pool
      using errcode = 'AT109', hint = 'Plan again when the drain is over.';
  end if;
  raise exception 'storage pool % is not set', v_pool
    using errcode = 'AT007', hint = 'Call atm.set_pool(storage_pool_id, pool_name, hosts) first.';
end
$$;

-- Raises AT006 when some parameters object is too large. Called only when the whole document is larger than
-- one parameters object may be.
create or replace function atm_internal.check_parameters_size(p_plan jsonb, p_limit integer, p_path text default 'plan') returns void
language plpgsql as $$
declare
  v_index integer;
  v_item jsonb;
begin
  if octet_length((p_plan -> 'parameters')::text) > p_limit then
    raise exception '%.parameters: % bytes, the limit is %', p_path, octet_length((p_plan -> 'parameters')::text), p_limit
      using errcode = 'AT006', hint = 'Keep large data elsewhere, or raise the setting parameters_limit.';
  end if;
  for v_item, v_index in
    select t.value, t.ordinality - 1 from jsonb_array_elements(p_plan -> 'tasks') with ordinality t
  loop
    perform atm_internal.check_parameters_size(v_item, p_limit, format('%s.tasks[%s]', p_path, v_index));
  end loop;
  for v_item, v_index in
    select c.value, c.ordinality - 1 from jsonb_array_elements(p_plan -> 'children') with ordinality c
  loop
    perform atm_internal.check_parameters_size(v_item, p_limit, format('%s.children[%s]', p_path, v_index));
  end loop;
end
$$;

-- Raises what a constraint that refused a plan means. Serialization failures stay what they are.
create or replace function atm_internal.refuse_plan(
  p_epoch bigint, p_flat atm_internal.flat_plan, p_root_no bigint, p_state text, p_constraint text, p_message text
) returns void
language plpgsql as $$
declare
  v_id uuid;
  v_holders jsonb;
begin
  if p_state = '23503' and p_constraint = 'root_epoch_fkey' then
    perform atm_internal.refuse_epoch(p_epoch);
  elsif p_state = '23505' then
    select x.id into v_id
      from (select n.command_id as id from unnest(p_flat.nodes) n union all select t.task_id from unnest(p_flat.tasks) t) x
     group by x.id having count(*) > 1 limit 1;
    if found then
      raise exception 'id % stands twice in the plan', v_id
        using errcode = 'AT005', hint = 'Each command and each task has an id of its own.';
    end if;
    select x.id into v_id from (
      select c.command_id as id from atm_internal.command c join unnest(p_flat.nodes) n on n.command_id = c.command_id
      union all
      select t.task_id from atm_internal.task t join unnest(p_flat.tasks) n on n.task_id = t.task_id
    ) x limit 1;
    if found then
      raise exception 'id % is taken by another command or task', v_id
        using errcode = 'AT106', hint = 'Use a new id.';
    end if;
  elsif p_state = '23P01' then
    select jsonb_agg(to_jsonb(b) order by b.entity_type, b.entity_id, b.since) into v_holders
      from atm_internal.blockers_of(p_flat.entities, p_root_no) b;
    if v_holders is not null then
      raise exception 'busy: % % is held by % %', v_holders -> 0 ->> 'entity_type', v_holders -> 0 ->> 'entity_id',
          v_holders -> 0 ->> 'action_type', v_holders -> 0 ->> 'root_command_id'
        using errcode = 'AT301', detail = v_holders::text,
              hint = 'Plan again when the holders have ended; atm.blockers shows them.';
    end if;
  end if;
  -- What refused this plan cannot be seen from here: it has gone, or this transaction's snapshot is older.
  raise exception 'another transaction was faster: %', p_message
    using errcode = '40001', hint = 'Repeat the transaction.';
end
$$;

-- The root of a command that is planned already, when the plan is the same.
create or replace function atm_internal.same_plan(p_command_id uuid, p_plan jsonb) returns bigint
language plpgsql stable as $$
declare
  v_root_no bigint;
  v_command_no integer;
  v_document jsonb;
begin
  select c.root_no, c.command_no, p.document into v_root_no, v_command_no, v_document
    from atm_internal.command c
    join atm_internal.root r on r.root_no = c.root_no
    join atm_internal.plan p on p.root_no = c.root_no and p.part_no = 0 and p.planned_at = r.created_at
   where c.command_id = p_command_id;
  if not found then
    return null;
  elsif v_command_no <> 0 then
    raise exception 'command % is planned already, as a child of another root', p_command_id
      using errcode = 'AT101', hint = 'Use a new command id.';
  elsif v_document <> p_plan then
    raise exception 'command % is planned already, with another plan', p_command_id
      using errcode = 'AT101', detail = 'First difference: ' || atm_internal.first_difference(v_document, p_plan, 'plan'),
            hint = 'Repeat the plan as it was given, or use a new command id.';
  end if;
  return v_root_no;
end
$$;

create or replace function atm.plan_command(epoch bigint, plan jsonb)
returns setof atm.planned_task
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 10 as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_plan alias for $2;
  v_command_id uuid;
  v_root_no bigint;
  v_flat atm_internal.flat_plan;
  v_now constant timestamptz := clock_timestamp();
  v_seal boolean;
  v_limit integer;
  v_current boolean;
  v_planned boolean;
  v_over boolean;
  v_pools integer[];
  v_state text;
  v_constraint text;
begin
  if num_nulls(p_epoch, p_plan) > 0 then
    perform atm_internal.refuse_null('plan_command', jsonb_build_object('epoch', p_epoch, 'plan', p_plan));
  end if;
  v_flat := atm_internal.flatten_plan(p_plan);
  v_command_id := v_flat.nodes[1].command_id;
  -- All that decides before anything is written, in one look.
  select exists (select from atm_internal.engine e where e.epoch = p_epoch), s.parameters_limit,
         exists (select from atm_internal.command c where c.command_id = v_command_id),
         exists (select from atm_internal.archived a where a.command_id = v_command_id)
    into v_current, v_limit, v_planned, v_over
    from atm_internal.setting s where s.only_row;
  if not v_current then
    perform atm_internal.refuse_epoch(p_epoch);
  elsif v_planned then
    v_root_no := atm_internal.same_plan(v_command_id, p_plan);
    return query select * from atm_internal.planned_tasks(v_root_no);
    return;
  elsif v_over then
    raise exception 'command % is over and in the history', v_command_id
      using errcode = 'AT102', hint = 'Use a new command id.';
  elsif pg_column_size(p_plan) > v_limit then
    perform atm_internal.check_parameters_size(p_plan, v_limit);
  end if;

  v_root_no := nextval('atm_internal.root_no');
  v_seal := coalesce((p_plan -> 'seal')::boolean, true);
  begin
    v_pools := atm_internal.lock_pools(v_flat);
    perform atm_internal.insert_plan(v_root_no, 0, 0, p_epoch, v_now, p_plan, v_flat,
                                     case when v_seal then 'sealed'::atm_internal.root_state else 'open' end, v_pools);
  exception
    when unique_violation or exclusion_violation or foreign_key_violation then
      get stacked diagnostics v_state = returned_sqlstate, v_constraint = constraint_name;
      v_root_no := atm_internal.same_plan(v_command_id, p_plan);
      if v_root_no is null then
        perform atm_internal.refuse_plan(p_epoch, v_flat, null, v_state, v_constraint, sqlerrm);
      end if;
      -- Somebody else planned the same in the meantime.
      return query select * from atm_internal.planned_tasks(v_root_no);
      return;
  end;
  if v_seal and cardinality(v_flat.tasks) = 0 then
    perform atm_internal.count_down(array[v_root_no], array[0], array[false]);
  end if;
  return query
    select t.task_id, t.command_id, v_command_id, t.task_type, t.storage_pool_id,
           case when t.submit then 'submitting' else 'planned' end
      from unnest(v_flat.tasks) t;
end
$$;

comment on function atm.plan_command(bigint, jsonb) is
$$Plans a root command with all its children and tasks in one transaction, before anything is sent to VDSM.
  epoch  of the calling engine, from atm.start_engine
  plan   the whole tree:
         {"command_id": uuid, "action_type": "RemoveVm", "parameters": {}, "seal": true,
          "entities": [{"type": "VM", "id": uuid, "access": "exclusive"}],
          "tasks": [{"task_id": uuid, "task_type": "deleteImage", "storage_pool_id": uuid, "parameters": {}, "entities": [], "submit": false}],
          "children": [{"command_id": uuid, "action_type": "RemoveImage", "parameters": {}, "entities": [], "tasks": [], "children": []}]}
         The root's command_id, each action_type, task_type and storage_pool_id are required. Other ids are made when
         left out. Defaults: seal true, submit false, access shared. "submit": true announces the task at once: it may be sent after the commit.
Returns one row per task in plan order. The same plan again returns the stored rows with their present states.
Errors: AT001 NULL; AT002 AT003 AT004 AT005 AT006 the document is wrong, the message names the path; AT007 AT109 the pool; AT101 planned
with another plan; AT102 in the history; AT106 an id is taken; AT201 stale epoch; AT301 an entity is held, DETAIL has the holders as JSON.
Locks the engine's row (key share): a plan is either seen by atm.start_engine or refused. NOTIFY: atm_work when a pool was idle.$$;
