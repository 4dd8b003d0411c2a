-- report_poll: what VDSM says about a pool's tasks becomes facts.
--
-- One full join of the pool's bound tasks with the listing finds what changed, what is missing and what is unknown; tasks of which VDSM says the
-- same as before are not touched. Times are compared with the begin of the poll (database clock), never with now: a listing speaks of the moment
-- it was asked for. Counting happens within one SPM incarnation (lver), because VDSM takes the role before it lists recovered tasks.
-- Lock order: pool_poll, roots by number, tasks. Peers: report_actions (130), bind_task (060).

create or replace function atm.report_poll(
  token bigint, storage_pool_id uuid, poll_started_at timestamptz, spm jsonb, statuses jsonb
) returns table (task_id uuid, vdsm_task_id uuid, action text)
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 5 as $$
#variable_conflict use_column
declare
  p_token alias for $1;
  p_storage_pool_id alias for $2;
  p_started alias for $3;
  p_spm alias for $4;
  p_statuses alias for $5;
  v_poll atm_internal.pool_poll;
  v_set atm_internal.setting;
  v_lver bigint;
  v_unreadable jsonb;
  v_seen atm_internal.seen[];
begin
  if num_nulls(p_token, p_storage_pool_id, p_started) > 0 then
    perform atm_internal.refuse_null('report_poll', jsonb_build_object(
      'token', p_token, 'storage_pool_id', p_storage_pool_id, 'poll_started_at', p_started));
  elsif p_started > clock_timestamp() then
    raise exception 'atm.report_poll: argument poll_started_at lies in the future: %', p_started
      using errcode = 'AT001', hint = 'Take it from this database (clock_timestamp()) before the listing is asked for.';
  elsif now() < p_started and current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'this transaction began before the poll that it reports'
      using errcode = '40001', hint = 'Begin the transaction after the listing has arrived.';
  end if;
  v_poll := atm_internal.leased_pool(p_token, p_storage_pool_id);
  if p_statuses is null or p_statuses = 'null' or (p_started <= v_poll.polled_at and v_poll.polled_at <= clock_timestamp()) then
    -- The listing failed, or is older than one that was applied: a sign of life, nothing else. A last listing
    -- in the future does not count: the clock was set back, and nothing would be applied until it has caught up.
    update atm_internal.pool_poll l set reported_at = clock_timestamp(), lease_until = clock_timestamp() + l.lease
     where l.pool_no = v_poll.pool_no;
    return;
  end if;
  v_lver := atm_internal.read_spm(p_spm);
  if jsonb_typeof(p_statuses) <> 'object' then
    perform atm_internal.refuse_value('statuses', 'the map of Host.getAllTasksStatuses', p_statuses);
  end if;
  if v_lver is distinct from v_poll.lver then
    v_poll.lver_since := p_started;
  end if;
  v_poll.lver := v_lver;
  select s.* into v_set from atm_internal.setting s;

  -- What is new: VDSM says something else of a task, does not list it, or lists an id that is bound to none.
  select array_agg(row(d.root_no, d.task_no, d.key, d.value, d.kind)::atm_internal.seen order by d.root_no, d.task_no)
    into v_seen
    from (
      select t.root_no, t.task_no, l.key, l.value,
             case
               when t.root_no is null then 'unknown'
               when l.key is null then 'absent'
               when t.cleared_at is not null then 'again'
               else 'changed'
             end as kind
        from (select t.root_no, t.task_no, t.vdsm_task_id, t.vdsm_state, t.vdsm_result, t.vdsm_code, t.vdsm_message, t.bound_at, t.cleared_at
                from atm_internal.task t
               where t.pool_no = v_poll.pool_no and t.vdsm_task_id is not null) t
        full join jsonb_each(p_statuses) l on l.key = t.vdsm_task_id::text
       where t.root_no is null
          or (l.key is null and t.bound_at < p_started and t.cleared_at is null)
          or (l.key is not null
              and (t.vdsm_state is distinct from l.value ->> 'taskState'
                or t.vdsm_message is distinct from l.value ->> 'message'
                or t.vdsm_result is distinct from l.value ->> 'taskResult'
                or t.vdsm_code::text is distinct from l.value ->> 'code'
                or t.cleared_at < p_started))
    ) d;
  select jsonb_object_agg(s.key, s.value)
    into v_unreadable
    from unnest(v_seen) s
   where s.key is not null and not atm_internal.is_readable(s.key, s.value);
  if v_unreadable is not null then
    raise warning 'storage pool %: unreadable status of %', p_storage_pool_id, left(v_unreadable::text, 1000);
    v_seen := array(select s from unnest(v_seen) s where s.key is null or atm_internal.is_readable(s.key, s.value) order by s.root_no, s.task_no);
  end if;
  -- Several steps below end tasks. All their roots are locked here, in order: a step that locked its own could
  -- meet, the other way around, a report of another pool.
  if exists (select from atm_internal.watch w where w.pool_no = v_poll.pool_no and w.kind in ('doubt', 'absence'))
     or exists (select from unnest(v_seen) s where s.kind = 'absent') then
    perform atm_internal.lock_roots(array(
      select s.root_no from unnest(v_seen) s where s.kind in ('again', 'absent') or s.value ->> 'taskState' = 'finished'
      union
      select w.root_no from atm_internal.watch w
       where w.pool_no = v_poll.pool_no
         and (w.kind = 'absence' or (w.kind = 'doubt' and p_started >= w.since + v_set.in_doubt_settle))));
  end if;
  if v_seen is not null then
    perform atm_internal.apply_changes_apart(p_started, v_seen);
    perform atm_internal.apply_unknowns(v_poll.pool_no, v_seen, v_set);
  end if;
  perform atm_internal.follow_unknowns(v_poll, p_started, p_statuses, v_set);
  perform atm_internal.apply_absences(v_poll, p_started, v_seen, p_statuses, v_set);
  perform atm_internal.settle_doubts(v_poll, p_started, v_set);

  update atm_internal.pool_poll l set
    reported_at = clock_timestamp(), polled_at = p_started, lease_until = clock_timestamp() + l.lease,
    host = p_spm ->> 'host', spm_id = (p_spm ->> 'spm_id')::integer, lver = v_lver, lver_since = v_poll.lver_since,
    unreadable = v_unreadable,
    idle = not exists (select from atm_internal.task t where t.pool_no = v_poll.pool_no)
       and not exists (select from atm_internal.unknown u where u.pool_no = v_poll.pool_no and u.resolved_at is null)
   where l.pool_no = v_poll.pool_no;
  return query select * from atm_internal.chores(v_poll.pool_no, p_started, p_statuses, v_seen, v_set.orphan_policy);
end
$$;

comment on function atm.report_poll(bigint, uuid, timestamptz, jsonb, jsonb) is
$$Reports one poll of a storage pool. Call it in a transaction that begins after the listing has arrived.
  token            the poller's, from atm.acquire_pools
  storage_pool_id  the pool
  poll_started_at  this database's clock_timestamp(), taken before the listing was asked for
  spm              {"host": text, "spm_id": int, "lver": int} of the SPM that was asked
  statuses         the map of Host.getAllTasksStatuses as it came; NULL: the listing failed or the SPM changed meanwhile (a sign of life only)
Extends the lease. A report older than the last one applied changes nothing. Returns what is to be done at VDSM: task_id (NULL for orphans), vdsm_task_id, action (stop,
revert or clear); do it outside of any transaction and tell atm.report_actions. Entries that cannot be read are named by a WARNING and in atm.pools; the rest is applied.
Errors: AT001 to AT004; AT008; AT202 the pool is not this poller's any more: stop touching it; 40001. Locks the pool's poll row, roots in order, their tasks.
NOTIFY: atm_ready.$$;

create or replace function atm_internal.read_spm(p_spm jsonb) returns bigint
language plpgsql immutable as $$
begin
  if jsonb_typeof(p_spm) is distinct from 'object' then
    perform atm_internal.refuse_value('spm', 'an object', p_spm);
  end if;
  perform atm_internal.check_keys(p_spm, 'spm', '{host,spm_id,lver}');
  perform atm_internal.check_key(p_spm, 'spm', 'host', 'text', false);
  if coalesce(p_spm ->> 'lver', '') !~ '^-?[0-9]{1,18}$' then
    perform atm_internal.refuse_value('spm.lver', 'an integer', p_spm -> 'lver');
  elsif p_spm ? 'spm_id' and p_spm ->> 'spm_id' !~ '^-?[0-9]{1,9}$' then
    perform atm_internal.refuse_value('spm.spm_id', 'an integer', p_spm -> 'spm_id');
  end if;
  return (p_spm ->> 'lver')::bigint;
end
$$;

-- Is this entry of a listing what VDSM's schema promises? coalesce, because a missing key makes NULL.
create or replace function atm_internal.is_readable(p_key text, p_value jsonb) returns boolean
language sql immutable as $$
  select coalesce(
    p_key ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    and jsonb_typeof(p_value) = 'object'
    and p_value ->> 'taskState' in ('init', 'running', 'finished', 'aborting', 'cleaning', 'unknown')
    and p_value ->> 'taskResult' in ('', 'success', 'cleanSuccess', 'cleanFailure')
    and p_value ->> 'code' ~ '^-?[0-9]{1,9}$'
    and jsonb_typeof(p_value -> 'message') = 'string', false)
$$;

-- Tasks of which VDSM says something new. A running one that is finished is over: succeeded with result success,
-- failed with any other. What VDSM says of a task that is done is kept, and changes no outcome.
create or replace function atm_internal.apply_changes(p_started timestamptz, p_seen atm_internal.seen[]) returns void
language plpgsql as $$
declare
  v_root_nos bigint[];
  v_closed integer[];
  v_failed boolean[];
  v_again integer[];
begin
  perform atm_internal.lock_roots(array(
    select distinct s.root_no from unnest(p_seen) s
     where s.kind = 'again' or (s.kind = 'changed' and s.value ->> 'taskState' = 'finished')));
  with before as (    -- the rows as they are before the update below: a statement sees one state of the tables
    select t.root_no,
           count(*) filter (where t.state = 'running')::integer as closed,
           coalesce(bool_or(s.value ->> 'taskResult' <> 'success') filter (where t.state = 'running'), false) as failed,
           count(*) filter (where t.cleared_at < p_started)::integer as again
      from unnest(p_seen) s
      join atm_internal.task t on t.root_no = s.root_no and t.task_no = s.task_no
     where s.kind = 'again' or (s.kind = 'changed' and s.value ->> 'taskState' = 'finished')
     group by t.root_no
  ), changed as (
    update atm_internal.task t set
      vdsm_state   = s.value ->> 'taskState',
      vdsm_result  = s.value ->> 'taskResult',
      vdsm_code    = (s.value ->> 'code')::integer,
      vdsm_message = s.value ->> 'message',
      state        = case when s.value ->> 'taskState' = 'finished' then 'done' else t.state end,
      outcome      = case
                       when t.state <> 'running' or s.value ->> 'taskState' <> 'finished' then t.outcome
                       when s.value ->> 'taskResult' = 'success' then 'succeeded'
                       else 'failed'
                     end::atm_internal.task_outcome,
      done_at      = case when t.state = 'running' and s.value ->> 'taskState' = 'finished' then clock_timestamp() else t.done_at end,
      cleared_at   = case when t.cleared_at < p_started then null else t.cleared_at end
      from unnest(p_seen) s
     where s.kind in ('changed', 'again') and t.root_no = s.root_no and t.task_no = s.task_no
  )
  select array_agg(b.root_no), array_agg(b.closed), array_agg(b.failed), array_agg(b.again)
    into v_root_nos, v_closed, v_failed, v_again
    from before b;
  if v_root_nos is not null then
    perform atm_internal.count_down(v_root_nos, v_closed, v_failed);
    -- Listed again after it counted as cleared: it is cleared once more before its root leaves.
    update atm_internal.root r set uncleared = r.uncleared + x.again, chores = true
      from unnest(v_root_nos, v_again) x (root_no, again)
     where r.root_no = x.root_no and x.again > 0 and r.state = 'ended';
  end if;
end
$$;

-- The same; when some root raises an error, each root on its own, and those that raise are set aside.
create or replace function atm_internal.apply_changes_apart(p_started timestamptz, p_seen atm_internal.seen[]) returns void
language plpgsql as $$
declare
  v_root_no bigint;
begin
  perform atm_internal.apply_changes(p_started, p_seen);
exception
  when serialization_failure or deadlock_detected then
    raise;
  when others then
    for v_root_no in
      select distinct s.root_no from unnest(p_seen) s where s.kind in ('changed', 'again') order by s.root_no
    loop
      begin
        perform atm_internal.apply_changes(p_started, array(select s from unnest(p_seen) s where s.root_no = v_root_no));
      exception
        when serialization_failure or deadlock_detected then
          raise;
        when others then
          perform atm_internal.set_root_aside(v_root_no, sqlstate, sqlerrm);
      end;
    end loop;
end
$$;

-- Bound tasks that VDSM does not list. They are counted in atm_internal.watch; after absence_polls polls of one incarnation and
-- absence_time between the first and this one they are absent: a running one is lost, a done one is cleared.
create or replace function atm_internal.apply_absences(
  p_poll atm_internal.pool_poll, p_started timestamptz, p_seen atm_internal.seen[], p_statuses jsonb, p_set atm_internal.setting
) returns void
language plpgsql as $$
declare
  v_gone bigint[];
  v_gone_nos integer[];
begin
  if exists (select from atm_internal.watch w where w.pool_no = p_poll.pool_no and w.kind = 'absence') then
    delete from atm_internal.watch w
     using atm_internal.task t
     where w.pool_no = p_poll.pool_no and w.kind = 'absence'
       and t.root_no = w.root_no and t.task_no = w.task_no
       and (p_statuses ? t.vdsm_task_id::text or t.cleared_at is not null);
  end if;
  if not exists (select from unnest(p_seen) s where s.kind = 'absent') then
    return;
  end if;
  insert into atm_internal.watch as w (root_no, task_no, kind, pool_no, since, lver, polls)
  select s.root_no, s.task_no, 'absence', p_poll.pool_no, p_started, p_poll.lver, 1
    from unnest(p_seen) s where s.kind = 'absent'
  on conflict (root_no, task_no, kind) do update set
    polls = case when w.lver = excluded.lver then w.polls + 1 else 1 end,
    since = case when w.lver = excluded.lver then w.since else excluded.since end,
    lver  = excluded.lver;
  select array_agg(w.root_no), array_agg(w.task_no) into v_gone, v_gone_nos
    from atm_internal.watch w
   where w.pool_no = p_poll.pool_no and w.kind = 'absence'
     and w.polls >= p_set.absence_polls and p_started - w.since >= p_set.absence_time;
  if v_gone is not null then
    perform atm_internal.lock_roots(v_gone);
    perform atm_internal.settle_apart('absence', v_gone, v_gone_nos);
  end if;
end
$$;

-- Ends and clears absent tasks of locked roots.
create or replace function atm_internal.end_absent(p_root_nos bigint[], p_task_nos integer[]) returns void
language plpgsql as $$
declare
  v_root_nos bigint[];
  v_closed integer[];
  v_cleared integer[];
begin
  with gone as (
    select t.root_no, t.task_no, t.state
      from unnest(p_root_nos, p_task_nos) g (root_no, task_no)
      join atm_internal.task t on t.root_no = g.root_no and t.task_no = g.task_no and t.cleared_at is null
  ), settled as (
    update atm_internal.task t set
      state      = 'done',
      outcome    = case when t.state = 'running' then 'lost' else t.outcome end,
      done_at    = coalesce(t.done_at, clock_timestamp()),
      cleared_at = clock_timestamp()
      from gone g where t.root_no = g.root_no and t.task_no = g.task_no
  ), unwatched as (
    delete from atm_internal.watch w using gone g
     where w.root_no = g.root_no and w.task_no = g.task_no and w.kind in ('absence', 'revert', 'stop')
  ), per_root as (
    select g.root_no, count(*) filter (where g.state = 'running')::integer as closed, count(*)::integer as cleared
      from gone g group by g.root_no
  )
  select array_agg(p.root_no), array_agg(p.closed), array_agg(p.cleared) into v_root_nos, v_closed, v_cleared from per_root p;
  if v_root_nos is not null then
    perform atm_internal.count_down(array_agg(x.root_no), array_agg(x.closed), array_agg(true))
       from unnest(v_root_nos, v_closed) x (root_no, closed) where x.closed > 0 having count(*) > 0;
    -- First those that have ended before: ending counts what is uncleared by itself.
    perform atm_internal.count_cleared(v_root_nos, v_cleared);
    perform atm_internal.end_reverted(v_root_nos);
  end if;
end
$$;

-- Roots that have no reverts left to wait for end; those that raise an error are set aside.
create or replace function atm_internal.end_reverted(p_root_nos bigint[]) returns void
language plpgsql as $$
declare
  v_root_no bigint;
begin
  for v_root_no in
    select r.root_no
      from atm_internal.root r
     where r.root_no = any (p_root_nos) and r.state = 'reverting'
       and not exists (select from atm_internal.watch w where w.root_no = r.root_no and w.kind = 'revert')
     order by r.root_no
  loop
    begin
      perform atm_internal.end_root(v_root_no);
    exception
      when serialization_failure or deadlock_detected then
        raise;
      when others then
        perform atm_internal.set_root_aside(v_root_no, sqlstate, sqlerrm);
    end;
  end loop;
end
$$;

-- The reconcile barrier. A task in doubt is over when VDSM can neither have it nor start it any more: after in_doubt_settle from the doubt, then
-- absence_polls polls of one incarnation, the last of them absence_time after that incarnation was first seen, and when no unfinished
-- unknown has it as a suspect. A task that an operator has resolved meanwhile keeps its outcome; only then is it cleared.
create or replace function atm_internal.settle_doubts(
  p_poll atm_internal.pool_poll, p_started timestamptz, p_set atm_internal.setting
) returns void
language plpgsql as $$
declare
  v_due_nos bigint[];
  v_task_nos integer[];
begin
  if not exists (select from atm_internal.watch w where w.pool_no = p_poll.pool_no and w.kind = 'doubt') then
    return;
  end if;
  update atm_internal.watch w set
    polls = case when w.lver = p_poll.lver then w.polls + 1 else 1 end,
    lver  = p_poll.lver
   where w.pool_no = p_poll.pool_no and w.kind = 'doubt'
     and p_started >= w.since + p_set.in_doubt_settle
     and (w.polls < p_set.absence_polls or w.lver is distinct from p_poll.lver);
  select array_agg(w.root_no order by w.root_no, w.task_no), array_agg(w.task_no order by w.root_no, w.task_no)
    into v_due_nos, v_task_nos
    from atm_internal.watch w
   where w.pool_no = p_poll.pool_no and w.kind = 'doubt'
     and w.lver = p_poll.lver and w.polls >= p_set.absence_polls
     and p_started >= p_poll.lver_since + p_set.absence_time
     and not exists (select from atm_internal.suspect s
                       join atm_internal.unknown u on u.vdsm_task_id = s.vdsm_task_id
                      where s.root_no = w.root_no and s.task_no = w.task_no
                        and u.vdsm_state <> 'finished' and u.resolved_at is null);
  if v_due_nos is not null then
    perform atm_internal.lock_roots(v_due_nos);
    perform atm_internal.settle_apart('doubt', v_due_nos, v_task_nos);
  end if;
end
$$;

-- Ends the doubts of locked roots.
create or replace function atm_internal.end_doubts(p_root_nos bigint[], p_task_nos integer[]) returns void
language plpgsql as $$
declare
  v_root_nos bigint[];
  v_cleared integer[];
begin
  -- What was perhaps their answer is followed and cleared, whatever becomes of them.
  update atm_internal.unknown u set suspected = true
    from unnest(p_root_nos, p_task_nos) x (root_no, task_no)
    join atm_internal.suspect s on s.root_no = x.root_no and s.task_no = x.task_no
   where u.vdsm_task_id = s.vdsm_task_id and not u.suspected;
  -- Those an operator has resolved are done already and become cleared; the others become done.
  with cleared as (
    update atm_internal.task t set cleared_at = clock_timestamp()
      from unnest(p_root_nos, p_task_nos) x (root_no, task_no), atm_internal.watch w
     where t.root_no = x.root_no and t.task_no = x.task_no and t.state = 'done' and t.cleared_at is null and t.vdsm_task_id is null
       and w.root_no = x.root_no and w.task_no = x.task_no and w.kind = 'doubt'
    returning t.root_no, t.task_no
  ), unwatched as (
    delete from atm_internal.watch w using cleared c where w.root_no = c.root_no and w.task_no = c.task_no and w.kind = 'doubt'
  )
  select array_agg(c.root_no), array_agg(c.n) into v_root_nos, v_cleared
    from (select c.root_no, count(*)::integer as n from cleared c group by c.root_no) c;
  perform atm_internal.close_unbound(p_root_nos, p_task_nos, '{in_doubt}', 'in_doubt');
  if v_root_nos is not null then
    perform atm_internal.count_cleared(v_root_nos, v_cleared);
  end if;
end
$$;

-- Ends absent tasks, or doubts; when some root raises an error, each root on its own, and those that raise are set aside.
create or replace function atm_internal.settle_apart(p_kind text, p_root_nos bigint[], p_task_nos integer[]) returns void
language plpgsql as $$
declare
  v_root_no bigint;
  v_count integer;
begin
  if p_kind = 'absence' then
    perform atm_internal.end_absent(p_root_nos, p_task_nos);
  else
    perform atm_internal.end_doubts(p_root_nos, p_task_nos);
  end if;
exception
  when serialization_failure or deadlock_detected then
    raise;
  when others then
    if p_root_nos[1] = all (p_root_nos) then
      perform atm_internal.set_root_aside(p_root_nos[1], sqlstate, sqlerrm);
      return;
    end if;
    for v_root_no, v_count in select r, count(*) from unnest(p_root_nos) r group by r order by r loop
      perform atm_internal.settle_apart(p_kind, array_fill(v_root_no, array[v_count]), array(
        select x.task_no from unnest(p_root_nos, p_task_nos) x (root_no, task_no) where x.root_no = v_root_no));
    end loop;
end
$$;
