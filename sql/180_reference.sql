-- The manual, made from the catalogue: what \df+ and \d+ of schema atm say, as one Markdown page.

create or replace function atm.reference() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  with function as (
    select p.proname, p.oid,
           format('atm.%s(%s) returns %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)) as signature,
           obj_description(p.oid, 'pg_proc') as comment,
           (select string_agg(r.rolname, ', ' order by r.rolname)
              from aclexplode(p.proacl) x join pg_roles r on r.oid = x.grantee
             where r.rolname like 'atm\_%' and r.rolname <> 'atm_owner') as roles
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'atm'
  ), relation as (
    select c.relname, obj_description(c.oid, 'pg_class') as comment,
           (select string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum)
              from pg_attribute a where a.attrelid = c.oid and a.attnum > 0) as columns
      from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'atm'
     where c.relkind = 'v'
  )
  select concat_ws(E'\n',
    '# The schema atm', '',
    'Made by `select atm.reference()` from the comments in the database; `\df+ atm.*` shows the same in psql.', '',
    '## Functions', '',
    (select string_agg(format(E'### %s\n\n    %s\n\n```text\n%s\n```\n\nGranted to: %s.\n', f.proname, f.signature, f.comment, coalesce(f.roles, 'nobody')), E'\n' order by f.proname)
       from function f),
    '## Views', '',
    (select string_agg(format(E'### %s\n\n%s\n\nColumns: %s.\n', v.relname, v.comment, v.columns), E'\n' order by v.relname) from relation v),
    '## Error codes', '',
    '| code | name | meaning | remedy |', '|---|---|---|---|',
    (select string_agg(format('| %s | %s | %s | %s |', e.code, e.name, e.meaning, e.remedy), E'\n' order by e.code) from atm_internal.error_code e),
    '', '## Settings', '',
    '| name | default | meaning |', '|---|---|---|',
    (select string_agg(format('| %s | %s | %s |', s.name, s.default_value, s.meaning), E'\n' order by s.name) from atm.settings s), '')
$$;
comment on function atm.reference() is 'The manual of schema atm as Markdown, made from the comments of its functions and views: docs/sql-reference.md.';
