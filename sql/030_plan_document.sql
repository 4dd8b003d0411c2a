-- The plan document: reading it, and saying what is wrong with it.
--
-- A document is a tree of commands with tasks and entities (atm.plan_command shows it). flatten_plan turns
-- it into three arrays in plan order: a command before its children, its tasks before theirs. It only
-- checks that all is well; when it is not, diagnose_plan walks the document again and raises
-- an error that names the path.

-- p_first_command, p_first_task: the numbers the first child and the first task get. A plan starts at 0; what
-- add_tasks brings starts after what the root has, below the command p_parent whose lineage is p_ancestors.
-- Loops over single expressions: they need no executor, and cost less than half of a query over the same document.
create or replace function atm_internal.flatten_plan(
  p_plan jsonb, p_parent integer default null, p_ancestors integer[] default null,
  p_first_command integer default 0, p_first_task integer default 0
) returns atm_internal.flat_plan
language plpgsql as $$
declare
  v_is_root constant boolean := p_parent is null;
  v_doc jsonb := p_plan;                  -- the present command
  v_depth integer := 0;
  v_lists jsonb[] := array[]::jsonb[];    -- of the present command and those above it: the children,
  v_places integer[] := array[]::integer[];    -- how many of them have been taken,
  v_line integer[] := array[]::integer[];      -- and its number
  v_command_no integer := coalesce(p_parent, p_first_command);
  v_next_command integer := p_first_command + case when p_parent is null then 1 else 0 end;
  v_next_task integer := p_first_task;
  v_command_id uuid;
  v_list jsonb;
  v_task jsonb;
  v_nodes atm_internal.plan_node[] := array[]::atm_internal.plan_node[];
  v_tasks atm_internal.plan_task[] := array[]::atm_internal.plan_task[];
  v_entities atm_internal.plan_entity[] := array[]::atm_internal.plan_entity[];
  v_generated boolean := false;
  v_valid boolean := true;
begin
  begin
    loop
      -- Each condition is NULL when a required key is missing.
      if v_depth = 0 and not v_is_root then
        v_valid := v_doc - '{tasks,children}'::text[] = '{}';
      else
        v_valid := v_doc - '{command_id,action_type,parameters,entities,tasks,children}'::text[]
                         - case when v_depth = 0 then 'seal' else '' end = '{}'
          and jsonb_typeof(v_doc -> 'action_type') = 'string' and v_doc ->> 'action_type' <> ''
          and coalesce(jsonb_typeof(v_doc -> 'command_id'), case when v_depth = 0 then 'missing' else 'string' end) = 'string'
          and coalesce(jsonb_typeof(v_doc -> 'parameters'), 'object') = 'object'
          and coalesce(jsonb_typeof(v_doc -> 'seal'), 'boolean') = 'boolean';
        v_command_id := coalesce((v_doc ->> 'command_id')::uuid, gen_random_uuid());
        v_generated := v_generated or not v_doc ? 'command_id';
        v_nodes := v_nodes || row(
          v_command_no, v_line[v_depth],
          case when v_depth > 0 then nullif(coalesce(p_ancestors, '{}') || v_line[2:v_depth], '{}') end,
          v_command_id, v_doc ->> 'action_type')::atm_internal.plan_node;
        v_list := v_doc -> 'entities';
        for i in 0 .. coalesce(jsonb_array_length(v_list), 0) - 1 loop
          v_entities := v_entities || atm_internal.read_entity(v_list -> i, v_command_no, null);
        end loop;
      end if;
      exit when v_valid is not true;

      v_list := v_doc -> 'tasks';
      for i in 0 .. coalesce(jsonb_array_length(v_list), 0) - 1 loop
        v_task := v_list -> i;
        v_valid := v_task - '{task_id,task_type,storage_pool_id,parameters,entities,submit}'::text[] = '{}'
          and jsonb_typeof(v_task -> 'task_type') = 'string' and v_task ->> 'task_type' <> ''
          and jsonb_typeof(v_task -> 'storage_pool_id') = 'string'
          and coalesce(jsonb_typeof(v_task -> 'task_id'), 'string') = 'string'
          and (v_is_root or v_task ? 'task_id')
          and coalesce(jsonb_typeof(v_task -> 'parameters'), 'object') = 'object';
        exit when v_valid is not true;
        v_generated := v_generated or not v_task ? 'task_id';
        v_tasks := v_tasks || row(
          v_next_task, v_command_no, v_command_id, coalesce((v_task ->> 'task_id')::uuid, gen_random_uuid()), v_task ->> 'task_type',
          (v_task ->> 'storage_pool_id')::uuid, coalesce((v_task -> 'submit')::boolean, false))::atm_internal.plan_task;
        for j in 0 .. coalesce(jsonb_array_length(v_task -> 'entities'), 0) - 1 loop
          v_entities := v_entities || atm_internal.read_entity(v_task -> 'entities' -> j, null, v_next_task);
        end loop;
        v_next_task := v_next_task + 1;
      end loop;
      exit when v_valid is not true;

      -- The next one in plan order: its first child, or the next child of one above it.
      v_depth := v_depth + 1;
      v_line := v_line[:v_depth - 1] || v_command_no;
      v_lists[v_depth] := coalesce(v_doc -> 'children', '[]');
      v_places[v_depth] := 0;
      while v_depth > 0 and v_places[v_depth] >= jsonb_array_length(v_lists[v_depth]) loop
        v_depth := v_depth - 1;
      end loop;
      exit when v_depth = 0;
      v_doc := v_lists[v_depth] -> v_places[v_depth];
      v_places[v_depth] := v_places[v_depth] + 1;
      v_command_no := v_next_command;
      v_next_command := v_next_command + 1;
    end loop;
  exception
    when data_exception then
      v_valid := false;
  end;
  if v_valid is not true then
    perform atm_internal.diagnose_plan(p_plan, case when v_is_root then 'root' else 'addition' end, 'plan', not v_is_root);
    raise exception 'the plan cannot be read' using errcode = 'AT004';
  end if;
  return row(v_nodes, v_tasks, v_entities, v_generated)::atm_internal.flat_plan;
end
$$;

-- An entity of a plan document, named by a command or by a task.
create or replace function atm_internal.read_entity(p_doc jsonb, p_command_no integer, p_task_no integer) returns atm_internal.plan_entity
language plpgsql as $$
begin
  if (p_doc - '{type,id,access}'::text[] = '{}'
      and jsonb_typeof(p_doc -> 'type') = 'string' and p_doc ->> 'type' <> ''
      and length(p_doc ->> 'type') <= 200
      and jsonb_typeof(p_doc -> 'id') = 'string'
      and coalesce(jsonb_typeof(p_doc -> 'access'), 'string') = 'string') is not true then
    raise data_exception;
  end if;
  return row(p_command_no, p_task_no, p_doc ->> 'type', (p_doc ->> 'id')::uuid, coalesce(p_doc ->> 'access', 'shared'))::atm_internal.plan_entity;
end
$$;

-- The tasks of a document, a JSON array in plan order. Most documents have two levels.
create or replace function atm_internal.document_tasks(p_doc jsonb) returns jsonb
language plpgsql immutable as $$
begin
  if not jsonb_path_exists(p_doc, '$.children[*].children[*]') then
    return jsonb_path_query_array(p_doc, '$.tasks[*]') || jsonb_path_query_array(p_doc, '$.children[*].tasks[*]');
  end if;
  return (
    select coalesce(jsonb_agg(t.value order by x.n, t.ordinality), '[]')
      from (select 0 as n, p_doc -> 'tasks' as tasks
            union all
            select c.ordinality, atm_internal.document_tasks(c.value)
              from jsonb_array_elements(p_doc -> 'children') with ordinality c) x
     cross join lateral jsonb_array_elements(x.tasks) with ordinality t);
end
$$;

-- Raises an error for the first thing that is wrong in a command of a plan, its tasks, its entities and its
-- children; returns when nothing is. p_level: root, child, or addition (the argument of atm.add_tasks).
create or replace function atm_internal.diagnose_plan(
  p_doc jsonb, p_level text, p_path text, p_ids_required boolean default false
) returns void
language plpgsql as $$
declare
  v_item jsonb;
  v_index integer := 0;
begin
  if jsonb_typeof(p_doc) is distinct from 'object' then
    perform atm_internal.refuse_value(p_path, 'an object', p_doc);
  end if;
  perform atm_internal.check_keys(p_doc, p_path, case p_level
    when 'root' then '{command_id,action_type,parameters,entities,tasks,children,seal}'::text[]
    when 'child' then '{command_id,action_type,parameters,entities,tasks,children}'
    else '{tasks,children}' end);
  if p_level <> 'addition' then
    perform atm_internal.check_key(p_doc, p_path, 'command_id', 'uuid', p_level = 'root');
    perform atm_internal.check_key(p_doc, p_path, 'action_type', 'text', true);
    perform atm_internal.check_key(p_doc, p_path, 'parameters', 'object', false);
    perform atm_internal.check_key(p_doc, p_path, 'entities', 'array', false);
    perform atm_internal.check_key(p_doc, p_path, 'seal', 'boolean', false);
    perform atm_internal.diagnose_entities(p_doc -> 'entities', p_path || '.entities');
  end if;
  perform atm_internal.check_key(p_doc, p_path, 'tasks', 'array', false);
  perform atm_internal.check_key(p_doc, p_path, 'children', 'array', false);
  for v_item, v_index in
    select t.value, t.ordinality - 1 from jsonb_array_elements(p_doc -> 'tasks') with ordinality t
  loop
    perform atm_internal.diagnose_task(v_item, p_ids_required, format('%s.tasks[%s]', p_path, v_index));
  end loop;
  for v_item, v_index in
    select c.value, c.ordinality - 1 from jsonb_array_elements(p_doc -> 'children') with ordinality c
  loop
    perform atm_internal.diagnose_plan(v_item, 'child', format('%s.children[%s]', p_path, v_index), p_ids_required);
  end loop;
end
$$;

create or replace function atm_internal.diagnose_task(p_doc jsonb, p_id_required boolean, p_path text) returns void
language plpgsql as $$
begin
  if jsonb_typeof(p_doc) is distinct from 'object' then
    perform atm_internal.refuse_value(p_path, 'an object', p_doc);
  end if;
  perform atm_internal.check_keys(p_doc, p_path, '{task_id,task_type,storage_pool_id,parameters,entities,submit}');
  perform atm_internal.check_key(p_doc, p_path, 'task_id', 'uuid', p_id_required);
  perform atm_internal.check_key(p_doc, p_path, 'task_type', 'text', true);
  perform atm_internal.check_key(p_doc, p_path, 'storage_pool_id', 'uuid', true);
  perform atm_internal.check_key(p_doc, p_path, 'parameters', 'object', false);
  perform atm_internal.check_key(p_doc, p_path, 'entities', 'array', false);
  perform atm_internal.check_key(p_doc, p_path, 'submit', 'boolean', false);
  perform atm_internal.diagnose_entities(p_doc -> 'entities', p_path || '.entities');
end
$$;

create or replace function atm_internal.diagnose_entities(p_list jsonb, p_path text) returns void
language plpgsql as $$
declare
  v_item jsonb;
  v_index integer;
  v_path text;
begin
  if p_list is not null and jsonb_typeof(p_list) <> 'array' then
    perform atm_internal.refuse_value(p_path, 'an array', p_list);
  end if;
  for v_item, v_index in
    select e.value, e.ordinality - 1 from jsonb_array_elements(p_list) with ordinality e
  loop
    v_path := format('%s[%s]', p_path, v_index);
    if jsonb_typeof(v_item) <> 'object' then
      perform atm_internal.refuse_value(v_path, 'an object', v_item);
    end if;
    perform atm_internal.check_keys(v_item, v_path, '{type,id,access}');
    perform atm_internal.check_key(v_item, v_path, 'type', 'text', true);
    perform atm_internal.check_key(v_item, v_path, 'id', 'uuid', true);
    perform atm_internal.check_key(v_item, v_path, 'access', 'access', false);
  end loop;
end
$$;

create or replace function atm_internal.check_keys(p_doc jsonb, p_path text, p_keys text[]) returns void
language plpgsql as $$
declare
  v_key text;
begin
  select k into v_key from jsonb_object_keys(p_doc) k where k <> all (p_keys) order by k limit 1;
  if found then
    raise exception '%: unknown key %', p_path, quote_ident(left(v_key, 200))
      using errcode = 'AT002', hint = format('The keys are: %s.', array_to_string(p_keys, ', '));
  end if;
end
$$;

create or replace function atm_internal.check_key(
  p_doc jsonb, p_path text, p_key text, p_kind text, p_required boolean
) returns void
language plpgsql as $$
declare
  v_value constant jsonb := p_doc -> p_key;
  v_text constant text := p_doc ->> p_key;
  v_path constant text := format('%s.%s', p_path, p_key);
begin
  if v_value is null then
    if p_required then
      raise exception '%: key % is missing', p_path, p_key
        using errcode = 'AT003', hint = format('Add "%s".', p_key);
    end if;
    return;
  end if;
  case p_kind
    when 'uuid' then
      if jsonb_typeof(v_value) <> 'string'
         or v_text !~* '^\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?$' then
        perform atm_internal.refuse_value(v_path, 'a uuid', v_value);
      end if;
    when 'text' then
      if jsonb_typeof(v_value) <> 'string' or v_text = '' or length(v_text) > 200 then
        perform atm_internal.refuse_value(v_path, 'a text of 1 to 200 characters', v_value);
      end if;
    when 'access' then
      if v_text is null or v_text not in ('shared', 'exclusive') then
        perform atm_internal.refuse_value(v_path, '"shared" or "exclusive"', v_value);
      end if;
    else
      if jsonb_typeof(v_value) <> p_kind then
        perform atm_internal.refuse_value(v_path, case p_kind when 'boolean' then 'true or false' else 'an ' || p_kind end, v_value);
      end if;
  end case;
end
$$;

create or replace function atm_internal.refuse_value(p_path text, p_expected text, p_value jsonb) returns void
language plpgsql as $$
begin
  raise exception '%: must be %, is %', p_path, p_expected, coalesce(left(p_value::text, 200), 'missing')
    using errcode = 'AT004', hint = case
      when p_path ~ '^plan\M' then 'See the plan document in the comment of atm.plan_command.'
      else 'See the comment of the function: \df+ atm.* in psql.' end;
end
$$;

-- Where two documents differ first, as a path; NULL when they do not.
create or replace function atm_internal.first_difference(p_old jsonb, p_new jsonb, p_path text) returns text
language plpgsql immutable as $$
declare
  v_key text;
  v_index integer;
begin
  if p_old is not distinct from p_new then
    return null;
  elsif jsonb_typeof(p_old) = 'object' and jsonb_typeof(p_new) = 'object' then
    for v_key in
      select k from jsonb_object_keys(p_old || p_new) k where p_old -> k is distinct from p_new -> k order by k
    loop
      return atm_internal.first_difference(p_old -> v_key, p_new -> v_key, p_path || '.' || v_key);
    end loop;
  elsif jsonb_typeof(p_old) = 'array' and jsonb_typeof(p_new) = 'array' then
    select i into v_index
      from generate_series(0, greatest(jsonb_array_length(p_old), jsonb_array_length(p_new)) - 1) i
     where p_old -> i is distinct from p_new -> i
     order by i limit 1;
    return atm_internal.first_difference(p_old -> v_index, p_new -> v_index, format('%s[%s]', p_path, v_index));
  end if;
  return format('%s: planned %s, now %s', p_path,
                coalesce(left(p_old::text, 100), 'nothing'), coalesce(left(p_new::text, 100), 'nothing'));
end
$$;
