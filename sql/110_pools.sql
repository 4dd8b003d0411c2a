-- Storage pools and the pollers' leases.
--
-- pool is written by people, pool_poll by polls. A lease is for efficiency; its token is what fences: a report with another token is
-- refused. Lock order: pool_poll by pool_no, before any root.

create or replace function atm_internal.check_hosts(p_hosts jsonb) returns void
language plpgsql as $$
declare
  v_host jsonb;
  v_index integer;
begin
  if jsonb_typeof(p_hosts) <> 'array' or jsonb_array_length(p_hosts) = 0 then
    perform atm_internal.refuse_value('hosts', 'an array of at least one host', p_hosts);
  end if;
  for v_host, v_index in select h.value, h.ordinality - 1 from jsonb_array_elements(p_hosts) with ordinality h loop
    if jsonb_typeof(v_host) <> 'object' then
      perform atm_internal.refuse_value(format('hosts[%s]', v_index), 'an object', v_host);
    end if;
    perform atm_internal.check_keys(v_host, format('hosts[%s]', v_index), '{address,port}');
    perform atm_internal.check_key(v_host, format('hosts[%s]', v_index), 'address', 'text', true);
    if v_host ? 'port' and (jsonb_typeof(v_host -> 'port') <> 'number' or v_host ->> 'port' !~ '^[0-9]{1,5}$'
                            or (v_host ->> 'port')::integer not between 1 and 65535) then
      perform atm_internal.refuse_value(format('hosts[%s].port', v_index), 'a port number', v_host -> 'port');
    end if;
  end loop;
end
$$;

create or replace function atm.set_pool(storage_pool_id uuid, pool_name text, hosts jsonb) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_storage_pool_id alias for $1;
  p_pool_name alias for $2;
  p_hosts alias for $3;
  v_hosts jsonb;
  v_pool_no integer;
begin
  if num_nulls(p_storage_pool_id, p_pool_name, p_hosts) > 0 then
    perform atm_internal.refuse_null('set_pool', jsonb_build_object(
      'storage_pool_id', p_storage_pool_id, 'pool_name', p_pool_name, 'hosts', p_hosts));
  elsif btrim(p_pool_name) = '' or length(p_pool_name) > 200 then
    raise exception 'atm.set_pool: argument pool_name must be 1 to 200 characters' using errcode = 'AT001';
  end if;
  perform atm_internal.check_hosts(p_hosts);
  select jsonb_agg(jsonb_build_object('address', h ->> 'address', 'port', coalesce((h ->> 'port')::integer, 54321)))
    into v_hosts from jsonb_array_elements(p_hosts) h;
  insert into atm_internal.pool as p (storage_pool_id, pool_name, hosts)
  values (p_storage_pool_id, p_pool_name, v_hosts)
  on conflict (storage_pool_id) do update set
    pool_name = excluded.pool_name, hosts = excluded.hosts, removed = false,
    drained = p.drained and not p.removed
  returning p.pool_no into v_pool_no;
  insert into atm_internal.pool_poll (pool_no) values (v_pool_no) on conflict do nothing;
  insert into atm_internal.open_pool (pool_no) values (v_pool_no) on conflict do nothing;
  return p_storage_pool_id;
end
$$;

comment on function atm.set_pool(uuid, text, jsonb) is
$$Makes a storage pool known, or changes its name and hosts.
  storage_pool_id  oVirt's id
  pool_name        1 to 200 characters
  hosts            [{"address": "host1", "port": 54321}]: one of them is SPM; port is 54321 when left out
Returns storage_pool_id. Errors: AT001 to AT004. Locks the pool's row.$$;

create or replace function atm.remove_pool(storage_pool_id uuid, reason text, dry_run boolean default true) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_storage_pool_id alias for $1;
  p_reason alias for $2;
  p_dry_run alias for $3;
  v_pool_no integer;
  v_tasks bigint;
  v_orphans bigint;
begin
  if num_nulls(p_storage_pool_id, p_dry_run) > 0 then
    perform atm_internal.refuse_null('remove_pool', jsonb_build_object('storage_pool_id', p_storage_pool_id, 'dry_run', p_dry_run));
  end if;
  perform atm_internal.require_reason('remove_pool', p_reason);
  -- The poll row first, as a report does. Then FOR UPDATE waits for the key share locks of plans in flight.
  perform from atm_internal.pool_poll l
     join atm_internal.pool p on p.pool_no = l.pool_no
    where p.storage_pool_id = p_storage_pool_id for no key update of l;
  select p.pool_no into v_pool_no from atm_internal.pool p
   where p.storage_pool_id = p_storage_pool_id and not p.removed for update;
  if not found then
    raise exception 'storage pool % is not set', p_storage_pool_id using errcode = 'AT008', hint = 'See atm.pools.';
  end if;
  select count(*) into v_tasks from atm_internal.task t where t.pool_no = v_pool_no;
  select count(*) into v_orphans from atm_internal.unknown u where u.pool_no = v_pool_no and u.resolved_at is null;
  if v_tasks > 0 or v_orphans > 0 then
    raise exception 'storage pool % has % live tasks and % orphans', p_storage_pool_id, v_tasks, v_orphans
      using errcode = 'AT108', hint = 'See atm.tasks and atm.orphans; drain the pool first with atm.drain_pool.';
  end if;
  if p_dry_run then
    return 'would be removed';
  end if;
  begin
    -- The foreign key of the tasks sees also those that this transaction does not: above READ COMMITTED the wait above brings no new snapshot.
    delete from atm_internal.open_pool o where o.pool_no = v_pool_no;
  exception
    when foreign_key_violation or restrict_violation then
      raise exception 'storage pool % has live tasks', p_storage_pool_id
        using errcode = 'AT108', hint = 'See atm.tasks; drain the pool first with atm.drain_pool.';
  end;
  update atm_internal.pool p set removed = true where p.pool_no = v_pool_no;
  update atm_internal.pool_poll p set poller = null, token = null, lease = null, lease_until = null, idle = true where p.pool_no = v_pool_no;
  perform atm_internal.write_audit('remove_pool', p_storage_pool_id::text, p_reason, '{}');
  return 'removed';
end
$$;

comment on function atm.remove_pool(uuid, text, boolean) is
$$Forgets a storage pool. Refused while it has live tasks or orphans.
  storage_pool_id  the pool
  reason           why; kept in atm.audit
  dry_run          true: only say what would happen
Returns removed, or would be removed. Errors: AT001; AT008; AT108 in use. Locks the pool.$$;

create or replace function atm.drain_pool(
  storage_pool_id uuid, reason text, drained boolean default true, dry_run boolean default true
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_storage_pool_id alias for $1;
  p_reason alias for $2;
  p_drained alias for $3;
  p_dry_run alias for $4;
  v_open bigint;
begin
  if num_nulls(p_storage_pool_id, p_drained, p_dry_run) > 0 then
    perform atm_internal.refuse_null('drain_pool', jsonb_build_object(
      'storage_pool_id', p_storage_pool_id, 'drained', p_drained, 'dry_run', p_dry_run));
  end if;
  perform atm_internal.require_reason('drain_pool', p_reason);
  perform from atm_internal.pool p where p.storage_pool_id = p_storage_pool_id and not p.removed for update;
  if not found then
    raise exception 'storage pool % is not set', p_storage_pool_id using errcode = 'AT008', hint = 'See atm.pools.';
  end if;
  select count(*) into v_open
    from atm_internal.task t join atm_internal.pool p on p.pool_no = t.pool_no where p.storage_pool_id = p_storage_pool_id;
  if not p_dry_run then
    update atm_internal.pool p set drained = p_drained where p.storage_pool_id = p_storage_pool_id;
    perform atm_internal.write_audit('drain_pool', p_storage_pool_id::text, p_reason, jsonb_build_object('drained', p_drained));
  end if;
  return format('%s%s, %s live tasks', case when p_dry_run then 'would be ' else '' end,
                case when p_drained then 'drained: new tasks are refused' else 'open again' end, v_open);
end
$$;

comment on function atm.drain_pool(uuid, text, boolean, boolean) is
$$Refuses new tasks in a storage pool (AT109) while the live ones go on to their end; or opens it again.
  storage_pool_id  the pool
  reason           why; kept in atm.audit
  drained          true: refuse new tasks; false: accept them again
  dry_run          true: only say what would happen
Returns a sentence with the number of live tasks. Errors: AT001; AT008. Locks the pool.$$;

create or replace function atm.acquire_pools(poller text, max_pools integer, lease interval)
returns table (storage_pool_id uuid, token bigint, hosts jsonb, open_tasks integer, lease_until timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp rows 20 as $$
#variable_conflict use_column
declare
  p_poller alias for $1;
  p_max alias for $2;
  p_lease alias for $3;
  v_now constant timestamptz := clock_timestamp();
  v_held integer;
begin
  if num_nulls(p_poller, p_max, p_lease) > 0 then
    perform atm_internal.refuse_null('acquire_pools', jsonb_build_object('poller', p_poller, 'max_pools', p_max, 'lease', p_lease));
  elsif btrim(p_poller) = '' or length(p_poller) > 200 then
    raise exception 'atm.acquire_pools: argument poller must be 1 to 200 characters' using errcode = 'AT001', hint = 'A name that is unique per process.';
  elsif p_max not between 0 and 1000000 then
    raise exception 'atm.acquire_pools: argument max_pools must be 0 to 1000000, is %', p_max using errcode = 'AT001';
  end if;
  perform atm_internal.check_lease('acquire_pools', p_lease);
  -- Its own pools are written only when half of the lease is over: reports extend leases too, and a quiet look writes nothing.
  update atm_internal.pool_poll l set lease = p_lease, lease_until = v_now + p_lease
   where l.pool_no in (
     select x.pool_no from atm_internal.pool_poll x
      where x.poller = p_poller and (x.lease is distinct from p_lease or x.lease_until < v_now + p_lease / 2)
      order by x.pool_no
        for no key update skip locked);
  select count(*) into v_held from atm_internal.pool_poll l where l.poller = p_poller;
  if v_held < p_max then
    -- Free and expired ones; those that are locked now are left for the next call. A lease that ends later than
    -- any can was made before the server's clock was set back, and is over too.
    update atm_internal.pool_poll l set
      poller = p_poller, lease = p_lease, lease_until = v_now + p_lease, token = nextval('atm_internal.stamp')
     where l.pool_no in (
       select x.pool_no
         from atm_internal.pool_poll x
         join atm_internal.pool p on p.pool_no = x.pool_no and not p.removed
        where x.poller is null
           or (x.poller <> p_poller and (x.lease_until < v_now or x.lease_until > v_now + x.lease + interval '1 min'))
        order by x.reported_at nulls first, x.pool_no
        limit p_max - v_held
          for no key update of x skip locked);
  elsif v_held > p_max then
    -- The rest is free for others.
    update atm_internal.pool_poll l set poller = null, token = null, lease = null, lease_until = null
     where l.pool_no in (
       select x.pool_no from atm_internal.pool_poll x
        where x.poller = p_poller order by x.reported_at desc nulls last, x.pool_no limit v_held - p_max
          for no key update skip locked);
  end if;
  return query
    select p.storage_pool_id, l.token, p.hosts,
           ((select count(*) from atm_internal.task t where t.pool_no = l.pool_no and t.cleared_at is null)
            + (select count(*) from atm_internal.unknown u where u.pool_no = l.pool_no and u.resolved_at is null))::integer,
           l.lease_until
      from atm_internal.pool_poll l
      join atm_internal.pool p on p.pool_no = l.pool_no
     where l.poller = p_poller
     order by p.pool_no;
end
$$;

comment on function atm.acquire_pools(text, integer, interval) is
$$Takes storage pools for a poller: extends the leases it holds once half of one is over (their tokens stay), takes free and expired ones up to max_pools, gives up what is more.
  poller     1 to 200 characters, unique per process
  max_pools  how many pools to hold at most
  lease      how long a pool stays this poller's without a report
Returns all pools that it holds afterwards: storage_pool_id, token, hosts, open_tasks (live tasks and unknown VDSM tasks: 0 means nothing to poll for), lease_until.
Errors: AT001. Locks the pools' poll rows, skipping locked ones.$$;

create or replace function atm.release_pools(poller text) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_poller alias for $1;
  v_released integer;
begin
  if p_poller is null then
    perform atm_internal.refuse_null('release_pools', jsonb_build_object('poller', p_poller));
  end if;
  perform from atm_internal.pool_poll l where l.poller = p_poller order by l.pool_no for no key update;
  update atm_internal.pool_poll l set poller = null, token = null, lease = null, lease_until = null where l.poller = p_poller;
  get diagnostics v_released = row_count;
  if v_released > 0 then
    perform atm_internal.hint('atm_work');
  end if;
  return v_released;
end
$$;

comment on function atm.release_pools(text) is
$$Gives up all pools of a poller at once, so that others need not wait for the leases.
  poller  its name
Returns the number of pools. Errors: AT001. NOTIFY: atm_work, for the other pollers.$$;

-- Locks the poll row of a pool for a poller's token.
create or replace function atm_internal.leased_pool(p_token bigint, p_storage_pool_id uuid) returns atm_internal.pool_poll
language plpgsql as $$
declare
  v_poll atm_internal.pool_poll;
begin
  select l.* into v_poll
    from atm_internal.pool_poll l join atm_internal.pool p on p.pool_no = l.pool_no
   where p.storage_pool_id = p_storage_pool_id
     for no key update of l;
  if not found then
    raise exception 'storage pool % is not set', p_storage_pool_id using errcode = 'AT008', hint = 'See atm.pools.';
  elsif v_poll.token is distinct from p_token then
    raise exception 'token % does not hold storage pool %', p_token, p_storage_pool_id
      using errcode = 'AT202', detail = format('It is held by %s.', coalesce(quote_literal(v_poll.poller), 'nobody')),
            hint = 'Stop touching this pool and call atm.acquire_pools.';
  end if;
  return v_poll;
end
$$;
