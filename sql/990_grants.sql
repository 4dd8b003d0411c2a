-- Owners and grants, as data; and two settings of the planner.
--
-- Each role gets what one kind of user needs; the roles are siblings. Functions run as atm_owner with a pinned
-- search_path; nothing is granted to PUBLIC, and nobody but the owner touches a table.

-- For what is made later, such as partitions.
alter default privileges for role atm_owner revoke execute on functions from public;
alter default privileges for role atm_owner revoke usage on types from public;

do $$
declare
  v_object record;
  v_grant record;
begin
  for v_object in
    select p.oid::regprocedure as name
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where n.nspname in ('atm', 'atm_internal')
  loop
    execute format('alter function %s owner to atm_owner', v_object.name);
    execute format('revoke all on function %s from public', v_object.name);
  end loop;
  -- The live tables are small most of the time, and the planner remembers it: a plan made then, of a function or of a
  -- foreign key, would scan whole tables in a burst of commands. Every query here has an index, so one plan serves
  -- all arguments, and need not be made again for each call.
  for v_object in
    select p.oid::regprocedure as name
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'atm' and p.prosecdef
  loop
    execute format('alter function %s set enable_seqscan = off', v_object.name);
    execute format('alter function %s set plan_cache_mode = force_generic_plan', v_object.name);
  end loop;
  for v_object in
    select t.oid::regtype as name
      from pg_type t join pg_namespace n on n.oid = t.typnamespace
     where n.nspname in ('atm', 'atm_internal') and t.typelem = 0
       and (t.typrelid = 0 or exists (select from pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
  loop
    execute format('revoke all on type %s from public', v_object.name);
  end loop;
  for v_object in
    select c.oid::regclass as name
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname in ('atm', 'atm_internal') and c.relkind = 'v'
  loop
    execute format('alter view %s owner to atm_owner', v_object.name);
  end loop;

  for v_grant in
    select role, p.oid::regprocedure as name
      from (values
        ('atm_engine', array['start_engine', 'plan_command', 'add_tasks', 'seal_command', 'abort_command', 'submit_tasks', 'bind_task', 'fail_task',
                             'doubt_task', 'claim_end_actions', 'extend_end_action', 'finish_end_action', 'set_pool', 'remove_pool',
                             'entity_tasks', 'busy_entities', 'blockers', 'can_compensate', 'explain', 'version']),
        ('atm_poller', array['set_pool', 'remove_pool', 'acquire_pools', 'report_poll', 'report_actions', 'release_pools', 'ensure_partitions',
                             'metrics', 'version', 'check']),
        ('atm_operator', array['set_pool', 'remove_pool', 'drain_pool', 'cancel_command', 'resolve_task', 'retry_end_action', 'resolve_orphan', 'set_setting',
                               'purge_history', 'ensure_partitions', 'entity_tasks', 'busy_entities', 'blockers', 'can_compensate',
                               'explain', 'check', 'metrics', 'version', 'reference']),
        ('atm_reader', array['entity_tasks', 'busy_entities', 'blockers', 'can_compensate', 'explain', 'check', 'metrics', 'version', 'reference']),
        ('atm_monitor', array['check', 'metrics', 'version'])
      ) g (role, functions)
      join pg_namespace n on n.nspname = 'atm'
      join pg_proc p on p.pronamespace = n.oid and p.proname = any (g.functions)
  loop
    execute format('grant execute on function %s to %I', v_grant.name, v_grant.role);
  end loop;
end
$$;

grant select on atm.errors, atm.settings to atm_engine, atm_poller, atm_operator, atm_reader, atm_monitor;
grant select on atm.commands, atm.tasks, atm.entities, atm.pools, atm.orphans, atm.stuck, atm.history, atm.history_tasks, atm.engines
   to atm_engine, atm_operator, atm_reader;
grant select on atm.pools to atm_poller;
-- Its log names the root command of what it does.
grant select (task_id, root_command_id) on atm.tasks to atm_poller;
grant select on atm.audit to atm_operator, atm_reader;

-- atm.version reads what the loader has written down.
grant usage on schema atm_migration to atm_owner;
grant select on atm_migration.load to atm_owner;

select atm.ensure_partitions(3);
