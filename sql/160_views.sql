-- Views for people and programs: what lives, what is stuck, what was.
--
-- Short columns first, so that a row fits a terminal; ages as intervals. No view needs a join for its usual question.

create or replace view atm.commands as
select c.command_id, pc.command_id as parent_command_id, rc.command_id as root_command_id, c.action_type,
       r.state::text as state, r.outcome::text as outcome, e.engine_name, r.epoch, r.created_at,
       r.open_tasks, date_trunc('second', clock_timestamp() - r.created_at) as age, r.attempt, r.aborted,
       r.due_at, r.ready_at, r.ended_at
  from atm_internal.command c
  join atm_internal.root r on r.root_no = c.root_no
  join atm_internal.engine e on e.epoch = r.epoch
  join atm_internal.command rc on rc.root_no = c.root_no and rc.command_no = 0
  left join atm_internal.command pc on pc.root_no = c.root_no and c.command_no > 0 and pc.command_no = coalesce(c.parent_no, 0);
comment on view atm.commands is 'Live commands, roots and children; state, outcome and open_tasks are those of the root.';

create or replace view atm.tasks as
select t.task_id, c.command_id, rc.command_id as root_command_id, t.task_type, p.storage_pool_id, t.vdsm_task_id,
       t.state::text as state, t.outcome::text as outcome, t.vdsm_state, t.vdsm_result, t.vdsm_code, t.vdsm_message,
       r.created_at, t.bound_at, t.done_at, t.announced_at, t.cleared_at, p.pool_name, c.action_type, t.task_no
  from atm_internal.task t
  join atm_internal.command c on c.root_no = t.root_no and c.command_no = t.command_no
  join atm_internal.command rc on rc.root_no = t.root_no and rc.command_no = 0
  join atm_internal.root r on r.root_no = t.root_no
  join atm_internal.pool p on p.pool_no = t.pool_no;
comment on view atm.tasks is 'Live tasks: state and outcome here, and what VDSM last said (vdsm_*).';

create or replace view atm.entities as
select h.entity_type, h.entity_id, h.access::text as access, null::uuid as task_id, c.command_id, rc.command_id as root_command_id,
       r.created_at as since
  from atm_internal.hold h
  join atm_internal.root r on r.root_no = h.root_no
  join atm_internal.command rc on rc.root_no = h.root_no and rc.command_no = 0
  join atm_internal.command c on c.root_no = h.root_no and c.command_no = any (h.command_nos)
union all
select h.entity_type, h.entity_id, h.access::text, t.task_id, c.command_id, rc.command_id, r.created_at
  from atm_internal.hold h
  join atm_internal.root r on r.root_no = h.root_no
  join atm_internal.command rc on rc.root_no = h.root_no and rc.command_no = 0
  join atm_internal.task t on t.root_no = h.root_no and t.task_no = any (h.task_nos)
  join atm_internal.command c on c.root_no = t.root_no and c.command_no = t.command_no;
comment on view atm.entities is 'The entities that live commands name, with the access in which their root holds them; task_id when a task names it.';

create or replace view atm.pools as
select p.pool_name, p.storage_pool_id, l.poller, l.host as spm_host, l.lver,
       date_trunc('milliseconds', clock_timestamp() - l.polled_at) as polled_ago,
       (select count(*) from atm_internal.task t where t.pool_no = p.pool_no)::integer as tasks,
       (select count(*) from atm_internal.unknown u where u.pool_no = p.pool_no)::integer as unknowns,
       l.idle, p.drained, l.lease_until, l.reported_at, l.polled_at, l.spm_id, l.unreadable, p.hosts,
       ((select count(*) from atm_internal.task t
          where t.pool_no = p.pool_no and t.cleared_at is null
            and (t.vdsm_task_id is not null or t.state in ('submitting', 'in_doubt') or t.state = 'done' and t.outcome <> 'not_submitted'))
        + (select count(*) from atm_internal.unknown u where u.pool_no = p.pool_no))::integer as at_vdsm
  from atm_internal.pool p
  join atm_internal.pool_poll l on l.pool_no = p.pool_no
 where not p.removed;
comment on view atm.pools is 'Storage pools: who polls them, which host is SPM, when the last listing was applied; at_vdsm: tasks that VDSM has or may have, 0 lets its SPM stop.';

create or replace view atm.orphans as
select u.vdsm_task_id, p.pool_name, u.vdsm_state, u.vdsm_result,
       date_trunc('second', clock_timestamp() - u.first_seen_at) as age,
       case
         when u.resolved_at is not null then 'resolved: followed, nobody waits for it'
         when s.may_bind then 'a running engine may still bind it'
         when u.suspected or s.n > 0 then 'orphan: followed to its end and cleared'
         else 'not ours: only reported (orphan_policy)'
       end as meaning,
       s.suspects, p.storage_pool_id, u.vdsm_code, u.vdsm_message, u.first_seen_at, u.absent_polls
  from atm_internal.unknown u
  join atm_internal.pool p on p.pool_no = u.pool_no
 cross join lateral (
   select count(*) as n, coalesce(bool_or(s.may_bind), false) as may_bind, array_agg(s.task_id) as suspects
     from atm_internal.live_suspect s where s.vdsm_task_id = u.vdsm_task_id) s;
comment on view atm.orphans is 'VDSM tasks that no task here is bound to, and what happens with them.';

create or replace view atm.history_tasks as
select h.command_id, h.action_type, t.task_type, t.outcome::text as outcome, t.vdsm_state, t.vdsm_result, t.vdsm_code, t.vdsm_message,
       h.ended_at, t.done_at, t.task_id, t.vdsm_task_id, t.announced_at, t.bound_at, t.cleared_at,
       h.outcome::text as command_outcome, h.engine_name, (t.n - 1)::integer as task_no
  from atm_internal.history h
 cross join lateral unnest(
   h.task_ids, h.task_types, h.outcomes, h.vdsm_task_ids, h.vdsm_states, h.vdsm_results, h.vdsm_codes, h.vdsm_messages,
   h.announced_at, h.bound_at, h.done_at, h.cleared_at) with ordinality
   t (task_id, task_type, outcome, vdsm_task_id, vdsm_state, vdsm_result, vdsm_code, vdsm_message, announced_at, bound_at, done_at, cleared_at, n);
comment on view atm.history_tasks is 'The tasks of ended and cleared commands, one row each, with what VDSM said of them.';

create or replace view atm.history as
select h.command_id, h.action_type, h.outcome::text as outcome, h.engine_name, h.planned_at, h.ended_at,
       date_trunc('milliseconds', h.ended_at - h.planned_at) as took, h.attempts, h.aborted,
       (select jsonb_agg(jsonb_build_object(
          'task_id', t.task_id, 'task_type', t.task_type, 'outcome', t.outcome, 'vdsm_task_id', t.vdsm_task_id, 'vdsm_state', t.vdsm_state,
          'vdsm_result', t.vdsm_result, 'vdsm_code', t.vdsm_code, 'vdsm_message', t.vdsm_message, 'announced_at', t.announced_at,
          'bound_at', t.bound_at, 'done_at', t.done_at, 'cleared_at', t.cleared_at) order by t.task_no)
          from atm.history_tasks t where t.command_id = h.command_id and t.ended_at = h.ended_at) as tasks,
       h.notes, p.document as plan, h.epoch, h.ready_at, h.claimed_at, h.archived_at
  from atm_internal.history h
  left join atm_internal.plan p on p.root_no = h.root_no and p.part_no = 0 and p.planned_at = h.planned_at;
comment on view atm.history is 'Ended and cleared commands: tasks with what VDSM said, notes of what was uncommon, and the plan as it was given.';

create or replace view atm.engines as
select e.engine_name, e.epoch, date_trunc('second', clock_timestamp() - e.started_at) as age,
       (select count(*) from atm_internal.root r where r.epoch = e.epoch)::integer as commands,
       e.application, e.client, e.started_at
  from atm_internal.engine e;
comment on view atm.engines is 'The engines: since when the incarnation runs that may write, from where, and how many live commands it has.';

create or replace view atm.audit as
select a.at, a.who, a.function, a.target, a.reason, a.client, a.application, a.detail from atm_internal.audit a;
comment on view atm.audit is 'What operators did: who, from where, why, and what changed.';

create or replace view atm.stuck as
select rc.action_type, x.waits_for, date_trunc('second', clock_timestamp() - x.since) as age, x.turn, x.remedy,
       rc.command_id as root_command_id, x.task_id, x.since, x.not_before
  from (
    select r.root_no, null::uuid as task_id, r.claimed_at as since, 'operator' as turn,
           concat_ws(': ', 'endAction gave up',
                     (select n.message from atm_internal.note n where n.root_no = r.root_no and n.event like 'endAction %' order by n.at desc limit 1)) as waits_for,
           format('select atm.retry_end_action(%L, reason => ..., dry_run => false)', c.command_id) as remedy, null::timestamptz as not_before
      from atm_internal.root r join atm_internal.command c on c.root_no = r.root_no and c.command_no = 0 where r.state = 'end_failed'
    union all
    select a.root_no, null, a.at, 'operator', format('set aside, raised %s: %s', a.code, a.message),
           format('select * from atm.explain(%L)', c.command_id), null
      from atm_internal.set_aside a join atm_internal.command c on c.root_no = a.root_no and c.command_no = 0
    union all
    select t.root_no, t.task_id, w.since, 'poller',
           concat('in doubt (', w.polls, ' polls after the settle time)',
                  (select case count(*) when 0 then '' when 1 then '; may be VDSM task ' || min(u.vdsm_task_id::text)
                                        else format('; may be one of %s VDSM tasks in atm.orphans', count(*)) end
                     from atm_internal.suspect s join atm_internal.unknown u on u.vdsm_task_id = s.vdsm_task_id
                    where s.root_no = w.root_no and s.task_no = w.task_no and u.vdsm_state <> 'finished' and u.resolved_at is null)),
           format('select atm.resolve_task(%L, ''lost'', reason => ..., dry_run => false)', t.task_id), w.since + s.in_doubt_settle
      from atm_internal.watch w join atm_internal.task t on t.root_no = w.root_no and t.task_no = w.task_no
     cross join atm_internal.setting s where w.kind = 'doubt'
    union all
    select t.root_no, t.task_id, w.since, 'poller', format('VDSM does not list it (%s polls)', w.polls),
           format('select atm.resolve_task(%L, ''lost'', reason => ..., dry_run => false)', t.task_id), w.since + s.absence_time
      from atm_internal.watch w join atm_internal.task t on t.root_no = w.root_no and t.task_no = w.task_no
     cross join atm_internal.setting s where w.kind = 'absence'
    union all
    select t.root_no, t.task_id, t.announced_at, 'engine', 'announced, and its engine has not said what VDSM answered',
           format('select atm.start_engine(%L)', e.engine_name), null
      from atm_internal.task t join atm_internal.root r on r.root_no = t.root_no join atm_internal.engine e on e.epoch = r.epoch
     where t.state = 'submitting' and t.announced_at < clock_timestamp() - interval '5 min'
    union all
    select r.root_no, null, r.ready_at, 'engine', 'ready, and its engine has not claimed the endAction',
           format('start the engine %s', e.engine_name), null
      from atm_internal.root r join atm_internal.engine e on e.epoch = r.epoch
     where r.state in ('ready', 'ending') and r.due_at < clock_timestamp() - interval '1 min'
    union all
    select r.root_no, null, r.ended_at, 'poller', format('ended, %s tasks not cleared at VDSM', r.uncleared), 'select * from atm.pools', null
      from atm_internal.root r where r.state = 'ended' and r.ended_at < clock_timestamp() - interval '1 min'
  ) x
  join atm_internal.command rc on rc.root_no = x.root_no and rc.command_no = 0;
comment on view atm.stuck is 'Commands and tasks that wait for somebody: what for, since when, whose turn it is, the call that would resolve it, and for doubts and absences the time before which they cannot end by themselves.';

create or replace function atm.version() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select coalesce((select l.program_version || ' (' || left(l.content_hash, 12) || ')' from atm_migration.load l order by l.loaded_at desc limit 1), 'unknown')
$$;
comment on function atm.version() is 'The version of pyatm whose functions are loaded, with the hash of their text.';
