-- endAction: claimed by one token at a time, finished in the engine's own transaction.
--
-- ready -> ending by a claim (token, lease) -> [reverting ->] ended, or back to ready (retry), or end_failed. A token stays good after its lease until
-- the root is claimed again. Claims skip locked roots; every write here locks the root only, then its tasks.

create or replace function atm.claim_end_actions(epoch bigint, max_commands integer, lease interval)
returns table (root_command_id uuid, action_type text, outcome text, attempt integer, token bigint,
               lease_until timestamptz, parameters jsonb, tasks jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 10 as $$
#variable_conflict use_column
declare
  p_epoch alias for $1;
  p_max alias for $2;
  p_lease alias for $3;
  v_now constant timestamptz := clock_timestamp();
  v_attempts integer;
  v_root_nos bigint[];
begin
  if num_nulls(p_epoch, p_max, p_lease) > 0 then
    perform atm_internal.refuse_null('claim_end_actions', jsonb_build_object(
      'epoch', p_epoch, 'max_commands', p_max, 'lease', p_lease));
  end if;
  if p_max not between 1 and 10000 then
    raise exception 'atm.claim_end_actions: argument max_commands must be 1 to 10000, is %', p_max using errcode = 'AT001';
  end if;
  perform atm_internal.check_lease('claim_end_actions', p_lease);
  if not atm_internal.is_current(p_epoch) then
    perform atm_internal.refuse_epoch(p_epoch);
  end if;
  v_attempts := (select s.end_action_attempts from atm_internal.setting s);
  with due as (
    select r.root_no
      from atm_internal.root r
     where r.epoch = p_epoch and r.due_at <= v_now
       and not exists (select from atm_internal.set_aside a where a.root_no = r.root_no)
     order by r.due_at
     limit p_max
       for no key update skip locked
  ), claimed as (
    update atm_internal.root r set
      state      = case when r.attempt >= v_attempts then 'end_failed'::atm_internal.root_state else 'ending' end,
      attempt    = case when r.attempt >= v_attempts then r.attempt else r.attempt + 1 end,
      token      = case when r.attempt >= v_attempts then null else nextval('atm_internal.stamp') end,
      due_at     = case when r.attempt >= v_attempts then null else v_now + p_lease end,
      claimed_at = v_now
     -- Not a join: nobody can estimate how many are due, and a planner that thinks of thousands reads all roots to find one.
     where r.root_no = any (array(select d.root_no from due d))
    returning r.root_no, r.state
  )
  select array_agg(c.root_no) filter (where c.state = 'ending') into v_root_nos from claimed c;
  if v_root_nos is null then
    return;
  end if;
  return query
    select c.command_id, c.action_type, r.outcome::text, r.attempt, r.token, r.due_at,
           coalesce(p.document -> 'parameters', '{}'), atm_internal.ended_tasks(r.root_no, r.created_at, p.document)
      from atm_internal.root r
      join atm_internal.command c on c.root_no = r.root_no and c.command_no = 0
      join atm_internal.plan p on p.root_no = r.root_no and p.part_no = 0 and p.planned_at = r.created_at
     where r.root_no = any (v_root_nos)
     order by r.ready_at;
end
$$;

comment on function atm.claim_end_actions(bigint, integer, interval) is
$$Claims endActions of ready commands of this engine, oldest first, also those whose lease has run out.
  epoch         of the calling engine
  max_commands  1 to 10000
  lease         how long nobody else is offered them
Returns root_command_id, action_type, outcome (succeeded or failed), attempt (from 1), token, lease_until, the root's parameters, and tasks: an array in plan
order of {"task_id", "command_id", "action_type", "task_type", "storage_pool_id", "state", "outcome", "vdsm_task_id", "vdsm_state", "vdsm_result", "vdsm_code",
"vdsm_message", "parameters"}. After end_action_attempts claims a command is end_failed instead.
Errors: AT001 an argument; AT201 stale epoch. Locks the claimed roots, skipping locked ones.$$;

create or replace function atm_internal.check_lease(p_function text, p_lease interval) returns void
language plpgsql as $$
begin
  if p_lease <= '0' or p_lease > '1 day' then
    raise exception 'atm.%: argument lease must be more than 0 and at most 1 day, is %', p_function, p_lease
      using errcode = 'AT001', hint = 'Such as interval ''30 s''.';
  end if;
end
$$;

-- The tasks of a root in plan order, with what they were planned with. p_document: the plan; what was added later is looked up.
create or replace function atm_internal.ended_tasks(p_root_no bigint, p_planned_at timestamptz, p_document jsonb) returns jsonb
language plpgsql stable as $$
declare
  v_documents jsonb := atm_internal.document_tasks(p_document);   -- of all tasks, in plan order
begin
  if exists (select from atm_internal.task t where t.root_no = p_root_no and t.task_no = jsonb_array_length(v_documents)) then
    select v_documents || jsonb_agg(x.value order by a.part_no, x.ordinality) into v_documents
      from atm_internal.plan a
     cross join lateral jsonb_array_elements(atm_internal.document_tasks(a.document)) with ordinality x
     -- The times keep the partitions of other months out.
     where a.root_no = p_root_no and a.part_no > 0 and a.planned_at between p_planned_at and clock_timestamp();
  end if;
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
             'task_id', t.task_id, 'command_id', c.command_id, 'action_type', c.action_type, 'task_type', t.task_type,
             'storage_pool_id', p.storage_pool_id, 'state', t.state, 'outcome', t.outcome, 'vdsm_task_id', t.vdsm_task_id,
             'vdsm_state', t.vdsm_state, 'vdsm_result', t.vdsm_result, 'vdsm_code', t.vdsm_code, 'vdsm_message', t.vdsm_message,
             'parameters', coalesce(v_documents -> t.task_no -> 'parameters', '{}')) order by t.task_no), '[]')
      from atm_internal.task t
      join atm_internal.command c on c.root_no = t.root_no and c.command_no = t.command_no
      join atm_internal.pool p on p.pool_no = t.pool_no
     where t.root_no = p_root_no);
end
$$;

-- Locks the root of a claim token.
create or replace function atm_internal.claimed_root(p_token bigint) returns bigint
language plpgsql as $$
declare
  v_root_no bigint;
begin
  select r.root_no into v_root_no from atm_internal.root r where r.token = p_token for no key update;
  if not found then
    raise exception 'endAction token % is stale', p_token
      using errcode = 'AT203',
            detail = case when exists (select from atm_internal.history h where h.token = p_token)
                       then 'This endAction was finished with it; the command is in the history.'
                       else 'The endAction was finished, given up, or claimed again.' end,
            hint = 'Roll back: the effects of this endAction must not be committed.';
  end if;
  return v_root_no;
end
$$;

create or replace function atm.extend_end_action(token bigint, lease interval) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_token alias for $1;
  p_lease alias for $2;
  v_root_no bigint;
begin
  if num_nulls(p_token, p_lease) > 0 then
    perform atm_internal.refuse_null('extend_end_action', jsonb_build_object('token', p_token, 'lease', p_lease));
  end if;
  perform atm_internal.check_lease('extend_end_action', p_lease);
  v_root_no := atm_internal.claimed_root(p_token);
  update atm_internal.root r set due_at = clock_timestamp() + p_lease where r.root_no = v_root_no;
  return 'ending';
end
$$;

comment on function atm.extend_end_action(bigint, interval) is
$$Extends the lease of a claimed endAction, from now.
  token  of the claim
  lease  how long from now
Returns ending. Errors: AT001; AT203 finished or claimed again. Locks the root.$$;

create or replace function atm.finish_end_action(
  token bigint, result text default 'done', retry_after interval default null, disposition text default 'clear',
  message text default null
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_token alias for $1;
  p_result alias for $2;
  p_retry_after alias for $3;
  p_disposition alias for $4;
  p_message alias for $5;
  v_root_no bigint;
begin
  if num_nulls(p_token, p_result, p_disposition) > 0 then
    perform atm_internal.refuse_null('finish_end_action', jsonb_build_object(
      'token', p_token, 'result', p_result, 'disposition', p_disposition));
  end if;
  if p_result not in ('done', 'retry', 'postpone', 'give_up') then
    raise exception 'atm.finish_end_action: argument result must be done, retry, postpone or give_up, is %', quote_literal(p_result) using errcode = 'AT001';
  elsif p_disposition not in ('clear', 'revert') then
    raise exception 'atm.finish_end_action: argument disposition must be clear or revert, is %', quote_literal(p_disposition) using errcode = 'AT001';
  elsif p_retry_after not between '0' and '30 days' then
    raise exception 'atm.finish_end_action: argument retry_after must be 0 to 30 days, is %', p_retry_after using errcode = 'AT001';
  end if;
  v_root_no := atm_internal.claimed_root(p_token);
  -- Waiting may go on for long: it is noted once.
  if p_message is not null and not (p_result = 'postpone' and exists (
       select from atm_internal.note n where n.root_no = v_root_no and n.event = 'endAction postpone' and n.message = left(p_message, 10000))) then
    perform atm_internal.write_note(v_root_no, 'endAction ' || p_result, left(p_message, 10000));
  end if;
  if p_result = 'done' then
    return atm_internal.finish_root(v_root_no, p_disposition);
  end if;
  update atm_internal.root r set
    token  = null,
    state  = case when p_result = 'give_up' or (p_result = 'retry' and r.attempt >= s.end_action_attempts) then 'end_failed' else 'ready'
             end::atm_internal.root_state,
    -- Postponed: nothing was attempted.
    attempt = r.attempt - (p_result = 'postpone')::integer,
    due_at = case when p_result = 'give_up' or (p_result = 'retry' and r.attempt >= s.end_action_attempts) then null
                  else clock_timestamp() + coalesce(p_retry_after,
                         least(interval '5 min', s.end_action_backoff * power(2, least(r.attempt, 30) - 1))) end
    from atm_internal.setting s
   where r.root_no = v_root_no;
  return (select r.state::text from atm_internal.root r where r.root_no = v_root_no);
end
$$;

comment on function atm.finish_end_action(bigint, text, interval, text, text) is
$$Finishes a claimed endAction. Called in the transaction that makes the endAction's effects in this database, they happen exactly once.
  token        of the claim
  result       done: the command ends; retry: it is offered again later; postpone: the same, and it counts as no attempt (for an endAction that has to
               wait, such as while atm.can_compensate is false); give_up: it becomes end_failed, entities stay held, an operator decides
  retry_after  with retry and postpone: when; NULL: end_action_backoff, doubled with each attempt, at most 5 minutes
  disposition  with done: clear the VDSM tasks; or revert the succeeded ones first (the command is reverting until VDSM has done so)
  message      what happened; shown by atm.explain and kept in the history
Returns the root's state: ended, reverting, ready or end_failed.
Errors: AT001 an argument; AT203 the token is stale: roll back. Locks the root, then its tasks.$$;

-- The root of a finished endAction: first the reverts, if wanted, then the end.
create or replace function atm_internal.finish_root(p_root_no bigint, p_disposition text) returns text
language plpgsql as $$
declare
  v_reverts integer := 0;
begin
  if p_disposition = 'revert' then
    insert into atm_internal.watch (root_no, task_no, kind, pool_no, since)
    select t.root_no, t.task_no, 'revert', t.pool_no, clock_timestamp()
      from atm_internal.task t
     where t.root_no = p_root_no and t.outcome = 'succeeded' and t.cleared_at is null
    on conflict do nothing;
    get diagnostics v_reverts = row_count;
  end if;
  if v_reverts > 0 then
    update atm_internal.root r set
      state = 'reverting', last_token = r.token, token = null, due_at = null, chores = true
     where r.root_no = p_root_no;
    return 'reverting';
  end if;
  perform atm_internal.end_root(p_root_no);
  return 'ended';
end
$$;

-- Ends a locked root: its entities are free. What VDSM has not been seen to finish keeps an association that excludes
-- nobody but answers can_compensate.
create or replace function atm_internal.end_root(p_root_no bigint) returns void
language plpgsql as $$
declare
  v_uncleared integer;
  v_working boolean;
begin
  select count(*), coalesce(bool_or(t.vdsm_state is distinct from 'finished'), false) into v_uncleared, v_working
    from atm_internal.task t where t.root_no = p_root_no and t.cleared_at is null;
  update atm_internal.root r set
    state = 'ended', ended_at = clock_timestamp(), last_token = coalesce(r.token, r.last_token), token = null, due_at = null,
    uncleared = v_uncleared, chores = v_uncleared > 0
   where r.root_no = p_root_no;
  if v_uncleared = 0 then
    perform atm_internal.archive(array[p_root_no]);
  elsif v_working then
    update atm_internal.hold h set released = true where h.root_no = p_root_no;
  else
    delete from atm_internal.hold h where h.root_no = p_root_no;
  end if;
end
$$;

-- Counts cleared tasks of locked roots down; an ended root without uncleared tasks goes into the history. One that has not ended is
-- counted when it ends. It is written all the same: above READ COMMITTED only a written row tells an older snapshot to repeat, so that
-- it neither counts a task that is cleared nor waits for a revert that is done.
create or replace function atm_internal.count_cleared(p_root_nos bigint[], p_cleared integer[]) returns void
language plpgsql as $$
declare
  v_over bigint[];
begin
  with counted as (
    update atm_internal.root r set uncleared = r.uncleared - x.cleared
      from unnest(p_root_nos, p_cleared) x (root_no, cleared)
     where r.root_no = x.root_no
    returning r.root_no, r.uncleared
  )
  select array_agg(c.root_no) filter (where c.uncleared = 0) into v_over from counted c;
  perform atm_internal.archive_apart(v_over);
end
$$;
