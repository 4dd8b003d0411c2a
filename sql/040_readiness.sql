-- Readiness of roots: the one place where a root learns that tasks are over.
--
-- Each root counts its open tasks; whoever ends tasks counts them down here. The counter is a write on
-- the root row, so two transactions that end the last two tasks wait for each other, and above
-- READ COMMITTED the second one gets 40001. Callers lock the roots first (lock_roots), then their tasks by
-- id: root before task is the lock order of the whole schema; pool_poll comes before both.

create or replace function atm_internal.lock_roots(p_root_nos bigint[]) returns void
language plpgsql as $$
begin
  perform from atm_internal.root r where r.root_no = any (p_root_nos) order by r.root_no for no key update;
end
$$;

-- Tells the listeners of p_channel that there is work: an empty hint, once per transaction.
create or replace function atm_internal.hint(p_channel text) returns void
language plpgsql as $$
begin
  if (select s.notify from atm_internal.setting s) then
    perform pg_notify(p_channel, '');
  end if;
end
$$;

-- Takes p_closed[i] tasks, of which some failed if p_failed[i], off the open tasks of p_root_nos[i]. A sealed
-- root without open tasks becomes ready, and its outcome is decided here and nowhere else.
create or replace function atm_internal.count_down(
  p_root_nos bigint[], p_closed integer[], p_failed boolean[]
) returns void
language plpgsql as $$
declare
  v_ready integer;
begin
  with counted as (
    update atm_internal.root r set
      open_tasks = r.open_tasks - x.closed,
      failed     = r.failed or x.failed,
      state      = case when r.state = 'sealed' and r.open_tasks = x.closed then 'ready' else r.state end,
      outcome    = case when r.state = 'sealed' and r.open_tasks = x.closed
                     then case when r.failed or x.failed or r.aborted then 'failed'::atm_internal.root_outcome else 'succeeded' end
                     else r.outcome end,
      due_at     = case when r.state = 'sealed' and r.open_tasks = x.closed then clock_timestamp() else r.due_at end,
      ready_at   = case when r.state = 'sealed' and r.open_tasks = x.closed then clock_timestamp() else r.ready_at end
      from unnest(p_root_nos, p_closed, p_failed) x (root_no, closed, failed)
     where r.root_no = x.root_no
    returning r.state
  )
  select count(*) filter (where c.state = 'ready') into v_ready from counted c;
  if v_ready > 0 then
    perform atm_internal.hint('atm_ready');
  end if;
end
$$;

-- Ends tasks of locked roots that VDSM has never had (or of which nobody knows), with p_outcome. p_states: only
-- those in one of these states. They are cleared at once: there is nothing at VDSM to clear that we know of.
create or replace function atm_internal.close_unbound(
  p_root_nos bigint[], p_task_nos integer[], p_states atm_internal.task_state[], p_outcome atm_internal.task_outcome
) returns integer
language plpgsql as $$
declare
  v_root_nos bigint[];
  v_counts integer[];
  v_closed integer;
begin
  perform from atm_internal.task t
    where t.root_no = any (p_root_nos) and t.state = any (p_states)
      and (p_task_nos is null or t.task_no = any (p_task_nos))
    order by t.task_id for no key update;
  with closed as (
    update atm_internal.task t set
      state = 'done', outcome = p_outcome, done_at = clock_timestamp(), cleared_at = clock_timestamp(), epoch = null
     where t.root_no = any (p_root_nos)
       and (p_task_nos is null or (t.root_no, t.task_no) in (select * from unnest(p_root_nos, p_task_nos)))
       and t.state = any (p_states)
    returning t.root_no, t.task_no
  ), unwatched as (
    delete from atm_internal.watch w using closed c
     where w.root_no = c.root_no and w.task_no = c.task_no and w.kind = 'doubt'
  ), per_root as (
    select c.root_no, count(*)::integer as closed from closed c group by c.root_no
  )
  select array_agg(p.root_no), array_agg(p.closed), sum(p.closed)
    into v_root_nos, v_counts, v_closed
    from per_root p;
  if v_closed > 0 then
    perform atm_internal.count_down(v_root_nos, v_counts, array_fill(true, array[cardinality(v_counts)]));
  end if;
  return coalesce(v_closed, 0);
end
$$;

-- Beside its state, explain tells the uncommon events of a root's life: they are notes.
create or replace function atm_internal.write_note(
  p_root_no bigint, p_event text, p_message text default null, p_task_no integer default null
) returns void
language sql as $$
  insert into atm_internal.note (root_no, event, who, message, task_no)
  values (p_root_no, p_event, session_user, p_message, p_task_no)
$$;
