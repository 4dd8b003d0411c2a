-- Schemas and roles.
--
-- atm is the public face: functions, views and the row types they return. atm_internal holds
-- tables and inner functions that nobody but atm_owner touches. The roles are siblings, not a
-- ladder; what each may do is data in sql/990_grants.sql.
--
-- depends:

do $$
declare
  v_role text;
begin
  foreach v_role in array array[
    'atm_owner', 'atm_engine', 'atm_poller', 'atm_operator', 'atm_reader', 'atm_monitor'
  ] loop
    -- Roles belong to the cluster: another database may have made them, or be making them now.
    begin
      execute format('create role %I nologin', v_role);
    exception when duplicate_object or unique_violation then
      null;
    end;
  end loop;
end
$$;

-- The migrating role has to be able to give objects to atm_owner.
do $$
begin
  if not pg_has_role(current_user, 'atm_owner', 'member') then
    execute format('grant atm_owner to %I', current_user);
  end if;
end
$$;

create schema if not exists atm;
create schema if not exists atm_internal;

alter schema atm owner to atm_owner;
alter schema atm_internal owner to atm_owner;

revoke all on schema atm, atm_internal from public;
grant usage on schema atm to atm_engine, atm_poller, atm_operator, atm_reader, atm_monitor;

comment on schema atm is
  'pyatm, the async task manager: functions and views for engines, pollers, operators and readers. \df+ atm.* is the manual.';
comment on schema atm_internal is
  'pyatm''s tables and inner functions. Nobody but atm_owner touches them; use the schema atm.';
