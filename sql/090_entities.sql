-- Lookups: what runs on an entity, who would refuse it, may compensation start.
--
-- A hold is one row per root and entity; its slot, an address in the entity's network, is found through the index of the admission
-- constraint. Holds of ended roots whose VDSM work was not seen to end have no slot, but are found by hold_released. A few rows
-- are read each time, so no bitmap is made of them first. Nothing here locks.

-- The holds of an entity, whose network is p_slot: made once by the caller where it can be, because the planner would make it twice.
create or replace function atm_internal.holds_of(p_slot inet, p_entity_type text, p_entity_id uuid) returns setof atm_internal.hold
language sql stable rows 3 as $$
  select h.* from atm_internal.hold h
   where h.slot && p_slot
     and h.entity_id = p_entity_id and h.entity_type = p_entity_type
  union all
  select h.* from atm_internal.hold h
   where h.released and h.entity_id = p_entity_id and h.entity_type = p_entity_type
$$;

-- The tasks that are associated with a hold: named by it, or below a command that is.
create or replace function atm_internal.tasks_of(p_hold atm_internal.hold)
returns table (task_id uuid, root_no bigint, task_no integer, command_id uuid, state atm_internal.task_state,
               vdsm_task_id uuid, vdsm_state text, cleared_at timestamptz)
language sql stable rows 5 as $$
  select t.task_id, t.root_no, t.task_no, c.command_id, t.state, t.vdsm_task_id, t.vdsm_state, t.cleared_at
    from atm_internal.task t
    join atm_internal.command c on c.root_no = t.root_no and c.command_no = t.command_no
   where t.root_no = (p_hold).root_no
     and (0 = any ((p_hold).command_nos)
          or t.command_no = any ((p_hold).command_nos)
          or t.task_no = any ((p_hold).task_nos)
          or c.ancestors && (p_hold).command_nos)
$$;

create or replace function atm_internal.check_entity(p_function text, p_entity_type text, p_entity_id uuid) returns void
language plpgsql as $$
begin
  if num_nulls(p_entity_type, p_entity_id) > 0 then
    perform atm_internal.refuse_null(p_function, jsonb_build_object('entity_type', p_entity_type, 'entity_id', p_entity_id));
  elsif p_entity_type = '' or length(p_entity_type) > 200 then
    raise exception 'atm.%: argument entity_type must be 1 to 200 characters', p_function
      using errcode = 'AT001', hint = 'Such as VM, Disk, Storage.';
  end if;
end
$$;

create or replace function atm.entity_tasks(entity_type text, entity_id uuid)
returns table (task_id uuid, command_id uuid, root_command_id uuid, state text, access text, since timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_bitmapscan = off rows 5 as $$
#variable_conflict use_column
declare
  p_entity_type alias for $1;
  p_entity_id alias for $2;
  v_slot inet;
begin
  if num_nulls(p_entity_type, p_entity_id) > 0 or p_entity_type = '' then
    perform atm_internal.check_entity('entity_tasks', p_entity_type, p_entity_id);
  end if;
  v_slot := atm_internal.entity_slot(p_entity_type, p_entity_id, 'exclusive', 0);
  return query
    select t.task_id, coalesce(t.command_id, root.command_id), root.command_id, coalesce(t.state::text, r.state::text),
           h.access::text, r.created_at
      from atm_internal.holds_of(v_slot, p_entity_type, p_entity_id) h
      join atm_internal.root r on r.root_no = h.root_no
      join atm_internal.command root on root.root_no = h.root_no and root.command_no = 0
      left join lateral atm_internal.tasks_of(h) t on true
     order by r.root_no, t.task_no;
end
$$;

comment on function atm.entity_tasks(text, uuid) is
$$What runs on an entity: one row per live task that is associated with it by itself, its command or an ancestor.
  entity_type  VM, Disk, Storage, ...
  entity_id    uuid
Returns task_id, command_id, root_command_id, state (of the task), access (shared or exclusive, as the root holds the entity), since. A holder without tasks gives
one row with task_id NULL and the root's state. Errors: AT001. Locks nothing.$$;

-- Reads [{"type", "id", "access"}].
create or replace function atm_internal.read_entities(p_function text, p_entities jsonb) returns atm_internal.plan_entity[]
language plpgsql stable as $$
declare
  v_list atm_internal.plan_entity[];
begin
  if p_entities is null then
    perform atm_internal.refuse_null(p_function, jsonb_build_object('entities', p_entities));
  end if;
  perform atm_internal.diagnose_entities(p_entities, 'entities');
  select array_agg(row(null, null, e ->> 'type', (e ->> 'id')::uuid,
                       coalesce(e ->> 'access', 'shared')::atm_internal.access)::atm_internal.plan_entity)
    into v_list
    from jsonb_array_elements(p_entities) e;
  return coalesce(v_list, '{}');
end
$$;

create or replace function atm.busy_entities(entities jsonb)
returns table (entity_type text, entity_id uuid, commands integer, tasks integer, exclusive boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_bitmapscan = off rows 20 as $$
#variable_conflict use_column
declare
  p_entities alias for $1;
begin
  return query
    select e.entity_type, e.entity_id, count(*)::integer,
           sum((select count(*) from atm_internal.tasks_of(h)))::integer, bool_or(h.access = 'exclusive')
      from (select distinct x.entity_type, x.entity_id from unnest(atm_internal.read_entities('busy_entities', p_entities)) x) e
     cross join lateral atm_internal.holds_of(
           atm_internal.entity_slot(e.entity_type, e.entity_id, 'exclusive', 0), e.entity_type, e.entity_id) h
     group by e.entity_type, e.entity_id
     order by e.entity_type, e.entity_id;
end
$$;

comment on function atm.busy_entities(jsonb) is
$$Those of the given entities that anything holds.
  entities  [{"type": "Disk", "id": uuid}], hundreds in one call
Returns entity_type, entity_id, commands (roots that hold it), tasks (live tasks associated with it), exclusive. Errors: AT001 to AT004, the message names the
path. Locks nothing.$$;

-- Who would refuse these entities to a new root (p_root_no NULL) or to this one.
create or replace function atm_internal.blockers_of(p_entities atm_internal.plan_entity[], p_root_no bigint)
returns table (entity_type text, entity_id uuid, root_command_id uuid, action_type text, access text, since timestamptz)
language sql stable rows 5 as $$
  select distinct e.entity_type, e.entity_id, c.command_id, c.action_type, h.access::text, r.created_at
    from (select x.entity_type, x.entity_id, max(x.access) as access
            from unnest(p_entities) x group by x.entity_type, x.entity_id) e
   cross join lateral atm_internal.holds_of(
           atm_internal.entity_slot(e.entity_type, e.entity_id, 'exclusive', 0), e.entity_type, e.entity_id) h
    join atm_internal.root r on r.root_no = h.root_no
    join atm_internal.command c on c.root_no = h.root_no and c.command_no = 0
   where not h.released
     and (h.access = 'exclusive' or e.access = 'exclusive')
     and h.root_no is distinct from p_root_no
$$;

create or replace function atm.blockers(entities jsonb)
returns table (entity_type text, entity_id uuid, root_command_id uuid, action_type text, access text, since timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_bitmapscan = off rows 5 as $$
#variable_conflict use_column
declare
  p_entities alias for $1;
begin
  return query
    select b.* from atm_internal.blockers_of(atm_internal.read_entities('blockers', p_entities), null) b
     order by b.entity_type, b.entity_id, b.since;
end
$$;

comment on function atm.blockers(jsonb) is
$$Who would refuse a command that wants these entities.
  entities  [{"type": "Disk", "id": uuid, "access": "exclusive"}]; access is shared when left out
Returns one row per entity and holder: entity_type, entity_id, root_command_id, action_type, access (of the holder), since; no row: atm.plan_command
would not be refused now. Errors: AT001 to AT004. Locks nothing.$$;

-- Suspects that may still be the origin of an unknown: announced and unanswered, or given up without proof. One that has bound another
-- id, or that VDSM has refused, is not.
create or replace view atm_internal.live_suspect as
select s.vdsm_task_id, s.root_no, s.task_no, t.task_id,
       t.epoch is not null and t.state in ('submitting', 'in_doubt') as may_bind
  from atm_internal.suspect s
  join atm_internal.task t on t.root_no = s.root_no and t.task_no = s.task_no
 where t.state in ('submitting', 'in_doubt')
    or (t.state = 'done' and t.vdsm_task_id is null
        and (t.outcome = 'in_doubt'
             or exists (select from atm_internal.watch w
                         where w.root_no = t.root_no and w.task_no = t.task_no and w.kind = 'doubt')));

create or replace function atm.can_compensate(entity_type text, entity_id uuid) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
  p_entity_type alias for $1;
  p_entity_id alias for $2;
  v_slot inet;
begin
  perform atm_internal.check_entity('can_compensate', p_entity_type, p_entity_id);
  v_slot := atm_internal.entity_slot(p_entity_type, p_entity_id, 'exclusive', 0);
  return not exists (
    select
      from atm_internal.holds_of(v_slot, p_entity_type, p_entity_id) h
     cross join lateral atm_internal.tasks_of(h) t
     where t.state in ('submitting', 'in_doubt')
        or (t.vdsm_task_id is not null and t.cleared_at is null and t.vdsm_state is distinct from 'finished')
        or exists (select from atm_internal.watch w
                    where w.root_no = t.root_no and w.task_no = t.task_no and w.kind in ('doubt', 'revert'))
        or exists (select from atm_internal.live_suspect s
                     join atm_internal.unknown u on u.vdsm_task_id = s.vdsm_task_id
                    where s.root_no = t.root_no and s.task_no = t.task_no
                      and u.vdsm_state <> 'finished' and u.resolved_at is null));
end
$$;

comment on function atm.can_compensate(text, uuid) is
$$May compensation start on this entity? False while VDSM may still work on it: it asks what VDSM last said, not what state a task has here. An
associated task that is announced or in doubt, that is bound and was not seen finished, absent or cleared, that is to be reverted, or that may be the origin
of an unfinished unknown VDSM task makes it false, also when an operator has called the task done.
  entity_type, entity_id  the entity
Errors: AT001. Locks nothing.$$;
