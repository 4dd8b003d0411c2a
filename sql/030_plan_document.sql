-- The plan document: reading it, and saying what is wrong with it.
--
-- A document is a tree of commands with tasks and entities (atm.plan_command shows it). flatten_plan turns
-- it into three arrays in plan order: a command before its children, its tasks before theirs. It only
-- checks that all is well; when it is not, diagnose_plan walks the document again and raises
-- an error that names the path.

-- p_first_command, p_first_task: the numbers the first child and the first task get. A plan starts at 0; what
-- add_tasks brings starts after what the root has, below the command p_parent whose lineage is p_ancestors.
create or replace function atm_internal.flatten_plan(
  p_plan jsonb, p_parent integer default null, p_ancestors integer[] default null,
  p_first_command integer default 0, p_first_task integer default 0
) returns atm_internal.flat_plan
language plpgsql as $$
declare
  v_is_root constant boolean := p_parent is null;
  v_nodes atm_internal.plan_node[];
  v_docs jsonb[];
  v_flat atm_internal.flat_plan;
  v_valid boolean;
begin
  begin
    select t.nodes, t.docs into v_nodes, v_docs
      from atm_internal.plan_tree(p_plan, p_parent, p_ancestors, p_first_command) t;
    with command as materialized (
      select c.n = 1 as is_top, c.command_no, c.command_id, c.doc
        from unnest(v_nodes, v_docs) with ordinality c (command_no, parent_no, ancestors, command_id, action_type, doc, n)
    ), task as materialized (
      select p_first_task + (row_number() over (order by c.command_no, t.ordinality))::integer - 1 as task_no,
             c.command_no, c.command_id, t.value as doc
        from command c
       cross join lateral jsonb_array_elements(c.doc -> 'tasks') with ordinality t
    ), commands as (
      select bool_and(case
               when c.is_top and not v_is_root then c.doc - '{tasks,children}'::text[] = '{}'
               else c.doc - '{command_id,action_type,parameters,entities,tasks,children}'::text[]
                      - case when c.is_top then 'seal' else '' end = '{}'
                and jsonb_typeof(c.doc -> 'action_type') = 'string' and c.doc ->> 'action_type' <> ''
                and coalesce(jsonb_typeof(c.doc -> 'command_id'), case when c.is_top then 'missing' else 'string' end) = 'string'
                and coalesce(jsonb_typeof(c.doc -> 'parameters'), 'object') = 'object'
                and coalesce(jsonb_typeof(c.doc -> 'seal'), 'boolean') = 'boolean'
             end is true) as valid,     -- a missing key makes NULL, which bool_and alone would skip
             bool_or(not c.is_top and not c.doc ? 'command_id') as generated
        from command c
    ), tasks as (
      select array_agg(row(t.task_no, t.command_no, t.command_id, coalesce((t.doc ->> 'task_id')::uuid, gen_random_uuid()),
                           t.doc ->> 'task_type', (t.doc ->> 'storage_pool_id')::uuid,
                           coalesce((t.doc -> 'submit')::boolean, false))::atm_internal.plan_task order by t.task_no) as list,
             bool_and((t.doc - '{task_id,task_type,storage_pool_id,parameters,entities,submit}'::text[] = '{}'
                      and jsonb_typeof(t.doc -> 'task_type') = 'string' and t.doc ->> 'task_type' <> ''
                      and jsonb_typeof(t.doc -> 'storage_pool_id') = 'string'
                      and coalesce(jsonb_typeof(t.doc -> 'task_id'), 'string') = 'string'
                      and (v_is_root or t.doc ? 'task_id')
                      and coalesce(jsonb_typeof(t.doc -> 'parameters'), 'object') = 'object') is true) as valid,
             bool_or(not t.doc ? 'task_id') as generated
        from task t
    ), entities as (
      select array_agg(row(e.command_no, e.task_no, e.doc ->> 'type', (e.doc ->> 'id')::uuid,
                           coalesce(e.doc ->> 'access', 'shared'))::atm_internal.plan_entity) as list,
             bool_and((e.doc - '{type,id,access}'::text[] = '{}'
                      and jsonb_typeof(e.doc -> 'type') = 'string' and e.doc ->> 'type' <> ''
                      and length(e.doc ->> 'type') <= 200
                      and jsonb_typeof(e.doc -> 'id') = 'string'
                      and coalesce(jsonb_typeof(e.doc -> 'access'), 'string') = 'string') is true) as valid
        from (select c.command_no, null::integer as task_no, e.value as doc
                from command c
               cross join lateral jsonb_array_elements(c.doc -> 'entities') e
              union all
              select null, t.task_no, e.value
                from task t
               cross join lateral jsonb_array_elements(t.doc -> 'entities') e) e
    )
    select coalesce(v_nodes[case when v_is_root then 1 else 2 end:], '{}'), coalesce(t.list, '{}'), coalesce(e.list, '{}'),
           coalesce(c.generated, false) or coalesce(t.generated, false),
           c.valid and coalesce(t.valid, true) and coalesce(e.valid, true)
      into v_flat.nodes, v_flat.tasks, v_flat.entities, v_flat.generated, v_valid
      from commands c, tasks t, entities e;
  exception
    when data_exception then
      v_valid := false;
  end;
  if v_valid is not true then
    perform atm_internal.diagnose_plan(p_plan, case when v_is_root then 'root' else 'addition' end, 'plan', not v_is_root);
    raise exception 'the plan cannot be read' using errcode = 'AT004';
  end if;
  return v_flat;
end
$$;

-- The commands of a document in plan order, each with its part of the document; the top one first, which in an addition
-- is the existing command p_parent. Most plans have two levels, and need no recursion.
create or replace function atm_internal.plan_tree(
  p_plan jsonb, p_parent integer, p_ancestors integer[], p_first_command integer,
  out nodes atm_internal.plan_node[], out docs jsonb[]
) language plpgsql as $$
declare
  -- The top's number, and what is to be added to the place of a command in plan order.
  v_top constant integer := coalesce(p_parent, p_first_command);
  v_shift constant integer := p_first_command - case when p_parent is null then 0 else 1 end;
  v_line integer[] := array[]::integer[];
  v_node record;
begin
  if not jsonb_path_exists(p_plan, '$.children[*].children[*]') then
    select array_agg(row(c.command_no, c.parent_no, c.ancestors, coalesce((c.doc ->> 'command_id')::uuid, gen_random_uuid()),
                         c.doc ->> 'action_type')::atm_internal.plan_node order by c.command_no),
           array_agg(c.doc order by c.command_no)
      into nodes, docs
      from (select v_top as command_no, null::integer as parent_no, null::integer[] as ancestors, p_plan as doc
            union all
            select v_shift + c.ordinality::integer, v_top, nullif(p_ancestors, '{}'), c.value
              from jsonb_array_elements(p_plan -> 'children') with ordinality c) c;
    return;
  end if;
  -- Walked in plan order; v_line holds the numbers on the way down to the present command.
  for v_node in
    with recursive node as (
        select array[]::integer[] as place, p_plan as doc
      union all
        select n.place || c.ordinality::integer, c.value
          from node n
         cross join lateral jsonb_array_elements(n.doc -> 'children') with ordinality c
         where n.doc ? 'children'
    )
    select n.doc, cardinality(n.place) as depth,
           case when n.place = '{}' then v_top else v_shift + (row_number() over (order by n.place))::integer - 1 end as command_no
      from node n
     order by n.place
  loop
    nodes := nodes || row(v_node.command_no, v_line[v_node.depth],
                          case when v_node.depth > 0 then nullif(coalesce(p_ancestors, '{}') || v_line[2:v_node.depth], '{}') end,
                          coalesce((v_node.doc ->> 'command_id')::uuid, gen_random_uuid()),
                          v_node.doc ->> 'action_type')::atm_internal.plan_node;
    docs := docs || v_node.doc;
    v_line := v_line[:v_node.depth] || v_node.command_no;
  end loop;
end
$$;

-- The parameters of a document's tasks, a JSON array in plan order.
create or replace function atm_internal.plan_parameters(p_plan jsonb, p_is_root boolean) returns jsonb
language sql stable as $$
  select jsonb_agg(t.value -> 'parameters' order by d.n, t.ordinality)
    from atm_internal.plan_tree(p_plan, case when not p_is_root then 0 end, null, 1) x
   cross join lateral unnest(x.docs) with ordinality d (doc, n)
   cross join lateral jsonb_array_elements(d.doc -> 'tasks') with ordinality t
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
    using errcode = 'AT004', hint = 'See the plan document in the comment of atm.plan_command.';
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
