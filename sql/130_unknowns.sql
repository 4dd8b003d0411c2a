-- Unknowns, orphans, ghosts, and the to-do list of a poll.
--
-- Unknown: listed by VDSM, bound to no task, known from no history. The tasks announced in its pool when it was first reported are its suspects
-- (atm_internal.live_suspect says which of them still count). While a live engine may bind it, nobody touches it; after that it is an
-- orphan. A ghost is an id known from history that is listed again: it is cleared again.

create or replace function atm_internal.apply_unknowns(
  p_pool_no integer, p_seen atm_internal.seen[], p_set atm_internal.setting
) returns void
language plpgsql as $$
begin
  if not exists (select from unnest(p_seen) s where s.kind = 'unknown') then
    return;
  end if;
  with listed as (
    select s.key::uuid as vdsm_task_id, s.value from unnest(p_seen) s where s.kind = 'unknown'
  ), updated as (
    update atm_internal.unknown u set
      vdsm_state = l.value ->> 'taskState', vdsm_result = l.value ->> 'taskResult',
      vdsm_code = (l.value ->> 'code')::integer, vdsm_message = l.value ->> 'message'
      from listed l
     where u.vdsm_task_id = l.vdsm_task_id
       and (u.vdsm_state, u.vdsm_result, u.vdsm_code, u.vdsm_message)
           is distinct from (l.value ->> 'taskState', l.value ->> 'taskResult', (l.value ->> 'code')::integer, l.value ->> 'message')
  ), new as (
    insert into atm_internal.unknown (vdsm_task_id, pool_no, first_seen_at, suspected, vdsm_state, vdsm_result, vdsm_code, vdsm_message)
    select l.vdsm_task_id, p_pool_no, clock_timestamp(), false,
           l.value ->> 'taskState', l.value ->> 'taskResult', (l.value ->> 'code')::integer, l.value ->> 'message'
      from listed l
     where not exists (select from atm_internal.task t where t.vdsm_task_id = l.vdsm_task_id)
       and not exists (select from atm_internal.history h where h.vdsm_task_ids @> array[l.vdsm_task_id])
       and not exists (select from atm_internal.orphan_history o where o.vdsm_task_id = l.vdsm_task_id)
    on conflict do nothing
    returning vdsm_task_id
  )
  insert into atm_internal.suspect (root_no, task_no, vdsm_task_id)
  select t.root_no, t.task_no, n.vdsm_task_id
    from new n
   cross join atm_internal.task t
    left join atm_internal.watch w on w.root_no = t.root_no and w.task_no = t.task_no and w.kind = 'doubt'
   where t.pool_no = p_pool_no
     and (t.state in ('submitting', 'in_doubt') or (t.state = 'done' and w.root_no is not null))
     -- A doubt that has had all its polls cannot be born any more: what appears now is another's.
     and (w.root_no is null or w.polls < p_set.absence_polls);
end
$$;

-- Unknowns that are bound meanwhile, listed again, or missing: the rule of absence is that of tasks.
create or replace function atm_internal.follow_unknowns(
  p_poll atm_internal.pool_poll, p_started timestamptz, p_statuses jsonb, p_set atm_internal.setting
) returns void
language plpgsql as $$
begin
  if not exists (select from atm_internal.unknown u where u.pool_no = p_poll.pool_no) then
    return;
  end if;
  delete from atm_internal.unknown u
   where u.pool_no = p_poll.pool_no
     and exists (select from atm_internal.task t where t.vdsm_task_id = u.vdsm_task_id);
  update atm_internal.unknown u set
    absent_since = case when p_statuses ? u.vdsm_task_id::text then null
                        when u.absent_lver = p_poll.lver then u.absent_since else p_started end,
    absent_polls = case when p_statuses ? u.vdsm_task_id::text then 0
                        when u.absent_lver = p_poll.lver then u.absent_polls + 1 else 1 end,
    absent_lver  = case when p_statuses ? u.vdsm_task_id::text then null else p_poll.lver end
   where u.pool_no = p_poll.pool_no
     and (u.absent_since is not null or not p_statuses ? u.vdsm_task_id::text);
  perform atm_internal.end_orphan(u.vdsm_task_id, 'absent')
     from atm_internal.unknown u
    where u.pool_no = p_poll.pool_no and u.absent_polls >= p_set.absence_polls
      and p_started - u.absent_since >= p_set.absence_time;
end
$$;

-- An unknown is over; its id stays known.
create or replace function atm_internal.end_orphan(p_vdsm_task_id uuid, p_how text) returns void
language plpgsql as $$
begin
  insert into atm_internal.orphan_history (
    vdsm_task_id, storage_pool_id, first_seen_at, over_at, how, vdsm_state, vdsm_result, vdsm_code, vdsm_message)
  select u.vdsm_task_id, p.storage_pool_id, u.first_seen_at, clock_timestamp(), p_how, u.vdsm_state, u.vdsm_result, u.vdsm_code, u.vdsm_message
    from atm_internal.unknown u join atm_internal.pool p on p.pool_no = u.pool_no
   where u.vdsm_task_id = p_vdsm_task_id
  on conflict (vdsm_task_id) do nothing;
  delete from atm_internal.unknown u where u.vdsm_task_id = p_vdsm_task_id;
end
$$;

-- What is to be done at VDSM now. Only what this listing shows: a chore for an id that is not listed waits.
create or replace function atm_internal.chores(
  p_pool_no integer, p_started timestamptz, p_statuses jsonb, p_seen atm_internal.seen[], p_policy text
) returns table (task_id uuid, vdsm_task_id uuid, action text)
language plpgsql stable as $$
#variable_conflict use_column
begin
  return query
    select t.task_id, t.vdsm_task_id,
           case when r.state = 'ended' then 'clear' when r.state = 'reverting' then 'revert' else 'stop' end
      from atm_internal.root r
      join atm_internal.task t on t.root_no = r.root_no
     where r.chores and (r.pool_no = p_pool_no or r.pool_no is null)
       and t.pool_no = p_pool_no and t.vdsm_task_id is not null and t.cleared_at is null
       and p_statuses ? t.vdsm_task_id::text
       and case
             when r.state = 'ended' then t.vdsm_state = 'finished'
             when r.state = 'reverting' then
               exists (select from atm_internal.watch w where w.root_no = t.root_no and w.task_no = t.task_no and w.kind = 'revert')
             else r.stop and t.vdsm_state is distinct from 'finished'
               and not exists (select from atm_internal.watch w where w.root_no = t.root_no and w.task_no = t.task_no and w.kind = 'stop')
           end;
  if exists (select from unnest(p_seen) s where s.kind = 'unknown') or exists (select from atm_internal.unknown u where u.pool_no = p_pool_no) then
    return query
      -- Orphans: finished, and no live engine can bind them.
      select null::uuid, u.vdsm_task_id, 'clear'
        from atm_internal.unknown u
       where u.pool_no = p_pool_no and u.vdsm_state = 'finished' and u.absent_since is null
         and not exists (select from atm_internal.live_suspect s where s.vdsm_task_id = u.vdsm_task_id and s.may_bind)
         and (p_policy = 'all'
              or (p_policy = 'suspected'
                  and (u.suspected or exists (select from atm_internal.live_suspect s where s.vdsm_task_id = u.vdsm_task_id))))
      union all
      -- Ghosts: known from history, listed by a poll that began after they were over.
      select null, s.key::uuid, 'clear'
        from unnest(p_seen) s
       where s.kind = 'unknown' and s.value ->> 'taskState' = 'finished'
         and (exists (select from atm_internal.history h
                       where h.vdsm_task_ids @> array[s.key::uuid] and h.archived_at < p_started)
              or exists (select from atm_internal.orphan_history o
                          where o.vdsm_task_id = s.key::uuid and o.over_at < p_started and o.how <> 'resolved'));
  end if;
end
$$;
