-- The tables of ovirt-engine's own task manager, as its catalogue shows them, and the calls that one
-- command with 4 children makes when every state change is written exactly once. Names of columns
-- are the engine's; the procedures are written anew and do what its own are observed to do.
-- Each statement follows a line `-- name: NAME`.

-- name: schema
create table command_entities (
  command_id uuid primary key, command_type integer not null, root_command_id uuid, command_parameters text,
  command_params_class varchar(256), created_at timestamptz, status varchar(20), callback_enabled boolean default false,
  callback_notified boolean default false, return_value text, return_value_class varchar(256),
  executed boolean default false, user_id uuid, parent_command_id uuid, data text, engine_session_seq_id bigint,
  command_context text
);
create index on command_entities (root_command_id) where root_command_id is not null;
create table async_tasks (
  task_id uuid primary key, action_type integer not null, status integer not null, result integer not null, step_id uuid,
  command_id uuid not null, started_at timestamptz, storage_pool_id uuid, task_type integer not null default 0,
  vdsm_task_id uuid, root_command_id uuid, user_id uuid
);
create index on async_tasks (vdsm_task_id);
create table async_tasks_entities (
  async_task_id uuid not null references async_tasks on delete cascade, entity_id uuid not null, entity_type varchar(128)
);
create index on async_tasks_entities (async_task_id);

create function put_command(p_id uuid, p_type integer, p_root uuid, p_parent uuid, p_parameters text, p_status text,
                            p_executed boolean, p_callback boolean) returns void
language plpgsql as $$
begin
  if exists (select from command_entities where command_id = p_id) then
    update command_entities
       set command_type = p_type, root_command_id = p_root, parent_command_id = p_parent, command_parameters = p_parameters,
           command_params_class = 'Parameters', status = p_status, executed = p_executed, callback_enabled = p_callback
     where command_id = p_id;
  else
    insert into command_entities (command_id, command_type, root_command_id, parent_command_id, command_parameters,
                                  command_params_class, created_at, status, executed, callback_enabled)
    values (p_id, p_type, p_root, p_parent, p_parameters, 'Parameters', now(), p_status, p_executed, p_callback);
  end if;
end $$;

create function put_task(p_id uuid, p_command uuid, p_pool uuid, p_vdsm uuid) returns void
language plpgsql as $$
begin
  if exists (select from async_tasks where task_id = p_id) then
    update async_tasks set status = 2, result = 0, storage_pool_id = p_pool, vdsm_task_id = p_vdsm, root_command_id = p_command
     where task_id = p_id;
  else
    insert into async_tasks (task_id, action_type, status, result, command_id, started_at, storage_pool_id, task_type,
                             vdsm_task_id, root_command_id)
    values (p_id, 211, 2, 0, p_command, now(), p_pool, 5, p_vdsm, p_command);
  end if;
end $$;

create function put_task_entities(p_task uuid, p_entities uuid[]) returns void
language plpgsql as $$
declare
  v_entity uuid;
begin
  foreach v_entity in array p_entities loop
    if not exists (select from async_tasks_entities where async_task_id = p_task and entity_id = v_entity) then
      insert into async_tasks_entities values (p_task, v_entity, 'Storage');
    end if;
  end loop;
end $$;

-- name: put_command
select put_command(%(id)s, %(type)s, %(root)s, %(root)s, %(parameters)s, %(status)s, %(executed)s, %(callback)s)

-- name: put_task
select put_task(%(task)s, %(command)s, %(pool)s, %(vdsm)s)

-- name: get_task
select * from async_tasks where task_id = %(task)s

-- name: put_task_entities
select put_task_entities(%(task)s, %(entities)s)

-- name: children
select * from command_entities where root_command_id = %(root)s

-- name: delete_task
delete from async_tasks where vdsm_task_id = %(vdsm)s

-- name: delete_command
delete from command_entities where command_id = %(id)s
