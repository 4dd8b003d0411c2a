-- Engines: a new incarnation fences the older ones and recovers what they left.
--
-- Changing engine.epoch waits for every plan in flight (key share by the foreign key) and cascades into all roots, so none can slip
-- through. Then: planned tasks were never sent, announced ones are in doubt, claims are taken back, open roots
-- are aborted. Lock order: engine, roots by number, tasks.

create or replace function atm.start_engine(engine_name text) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_engine_name alias for $1;
  v_epoch bigint;
  v_old bigint;
  v_root_no bigint;
begin
  if p_engine_name is null or btrim(p_engine_name) = '' or length(p_engine_name) > 200 then
    raise exception 'atm.start_engine: argument engine_name must be 1 to 200 characters'
      using errcode = 'AT001', hint = 'Use a name that stays the same over restarts of this engine.';
  end if;
  v_epoch := nextval('atm_internal.stamp');
  insert into atm_internal.engine (engine_name, epoch, started_at, client, application)
  values (p_engine_name, v_epoch, clock_timestamp(), inet_client_addr()::text, current_setting('application_name', true))
  on conflict (engine_name) do nothing;
  if found then
    return v_epoch;
  end if;
  select e.epoch into v_old from atm_internal.engine e where e.engine_name = p_engine_name for update;
  perform from atm_internal.root r where r.epoch = v_old order by r.root_no for no key update;
  update atm_internal.engine e set
    epoch = v_epoch, started_at = clock_timestamp(), client = inet_client_addr()::text,
    application = current_setting('application_name', true)
   where e.engine_name = p_engine_name;
  begin
    perform atm_internal.recover_roots(array(select r.root_no from atm_internal.root r where r.epoch = v_epoch order by r.root_no));
  exception
    when serialization_failure or deadlock_detected then
      raise;
    when others then
      -- Some root raises: each on its own, and those that raise are set aside.
      for v_root_no in select r.root_no from atm_internal.root r where r.epoch = v_epoch order by r.root_no loop
        begin
          perform atm_internal.recover_roots(array[v_root_no]);
        exception
          when serialization_failure or deadlock_detected then
            raise;
          when others then
            perform atm_internal.set_root_aside(v_root_no, sqlstate, sqlerrm);
        end;
      end loop;
  end;
  return v_epoch;
end
$$;

comment on function atm.start_engine(text) is
$$Starts a new incarnation of an engine and returns its epoch. Every older incarnation of this name is fenced: its writes are refused with AT201.
What it left is recovered: open commands are aborted, planned tasks are not_submitted, announced ones in_doubt (nobody may bind them any more), claimed
endActions may be claimed again. A command whose tasks are all bound goes on and succeeds if they do.
  engine_name  1 to 200 characters, the same over restarts
A command that raises an error in recovery is set aside and shown by atm.stuck; the others go on.
Errors: AT001 the name; 40001 or 40P01: repeat the transaction. Locks the engine, then its roots in order. NOTIFY: atm_ready.$$;

create or replace function atm_internal.recover_roots(p_root_nos bigint[]) returns void
language plpgsql as $$
begin
  -- Claims of the older incarnation are taken back; the attempt stays counted.
  update atm_internal.root r set state = 'ready', token = null, due_at = clock_timestamp()
   where r.root_no = any (p_root_nos) and r.state = 'ending';
  insert into atm_internal.note (root_no, event, who, message)
  select r.root_no, 'engine restarted', session_user,
         case r.state when 'open' then 'aborted: its engine was restarted before it was sealed' end
    from atm_internal.root r
   where r.root_no = any (p_root_nos) and r.state in ('open', 'sealed', 'ready');
  update atm_internal.root r set state = 'sealed', aborted = true
   where r.root_no = any (p_root_nos) and r.state = 'open';
  perform from atm_internal.task t
    where t.root_no = any (p_root_nos) and t.state in ('planned', 'submitting', 'in_doubt')
    order by t.task_id for no key update;
  -- Announced: VDSM may have them. In doubt by the engine's own word: it cannot bind them any more.
  insert into atm_internal.watch (root_no, task_no, kind, pool_no, since)
  select t.root_no, t.task_no, 'doubt', t.pool_no, clock_timestamp()
    from atm_internal.task t
   where t.root_no = any (p_root_nos) and t.state = 'submitting'
  on conflict do nothing;
  update atm_internal.task t set state = 'in_doubt', epoch = null
   where t.root_no = any (p_root_nos) and t.state in ('submitting', 'in_doubt');
  perform atm_internal.close_unbound(p_root_nos, null, '{planned}', 'not_submitted');
  -- An aborted root without open tasks is ready now.
  perform atm_internal.count_down(array_agg(r.root_no), array_agg(0), array_agg(false))
     from atm_internal.root r
    where r.root_no = any (p_root_nos) and r.state = 'sealed' and r.open_tasks = 0
   having count(*) > 0;
  delete from atm_internal.set_aside a where a.root_no = any (p_root_nos);
end
$$;

create or replace function atm_internal.set_root_aside(p_root_no bigint, p_code text, p_message text) returns void
language sql as $$
  insert into atm_internal.set_aside (root_no, code, message) values (p_root_no, p_code, p_message)
  on conflict (root_no) do update set at = clock_timestamp(), code = excluded.code, message = excluded.message
$$;
