-- Settings and the audit trail.
--
-- atm_internal.setting is one typed row; functions read it whole. It is changed by atm.set_setting only.

-- From the catalogue: information_schema shows a column only to those who may read the table itself.
create or replace view atm.settings as
select s.key as name, s.value, pg_get_expr(d.adbin, d.adrelid)::information_schema.character_data as default_value,
       format_type(a.atttypid, null)::information_schema.character_data as type,
       col_description(a.attrelid, a.attnum) as meaning
  from atm_internal.setting t
 cross join lateral jsonb_each_text(to_jsonb(t) - 'only_row') s
  join pg_attribute a on a.attrelid = 'atm_internal.setting'::regclass and a.attname = s.key
  join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 order by s.key;

comment on view atm.settings is 'The settings with their values, types and meanings. Change one with atm.set_setting(name, value, reason).';

-- Every operator function leaves a row.
create or replace function atm_internal.write_audit(
  p_function text, p_target text, p_reason text, p_detail jsonb
) returns void
language sql as $$
  insert into atm_internal.audit (client, application, function, target, reason, detail)
  values (inet_client_addr()::text, current_setting('application_name', true), p_function, p_target, p_reason, p_detail)
$$;

create or replace function atm_internal.require_reason(p_function text, p_reason text) returns void
language plpgsql as $$
begin
  if p_reason is null or btrim(p_reason) = '' then
    raise exception 'atm.%: argument reason must say why', p_function
      using errcode = 'AT001', hint = 'It is kept in atm.audit.';
  end if;
end
$$;

create or replace function atm.set_setting(name text, value text, reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  p_name alias for $1;
  p_value alias for $2;
  p_reason alias for $3;
  v_old text;
begin
  if num_nulls(p_name, p_value) > 0 then
    perform atm_internal.refuse_null('set_setting', jsonb_build_object('name', p_name, 'value', p_value));
  end if;
  perform atm_internal.require_reason('set_setting', p_reason);
  select s.value into v_old from atm.settings s where s.name = p_name;
  if not found then
    raise exception 'there is no setting %', quote_literal(p_name)
      using errcode = 'AT008', hint = 'See atm.settings for the names.';
  end if;
  begin
    update atm_internal.setting s set
      absence_polls       = case p_name when 'absence_polls' then p_value::integer else s.absence_polls end,
      absence_time        = case p_name when 'absence_time' then p_value::interval else s.absence_time end,
      in_doubt_settle     = case p_name when 'in_doubt_settle' then p_value::interval else s.in_doubt_settle end,
      submit_window       = case p_name when 'submit_window' then p_value::interval else s.submit_window end,
      end_action_attempts = case p_name when 'end_action_attempts' then p_value::integer else s.end_action_attempts end,
      end_action_backoff  = case p_name when 'end_action_backoff' then p_value::interval else s.end_action_backoff end,
      notify              = case p_name when 'notify' then p_value::boolean else s.notify end,
      orphan_policy       = case p_name when 'orphan_policy' then p_value else s.orphan_policy end,
      parameters_limit    = case p_name when 'parameters_limit' then p_value::integer else s.parameters_limit end,
      history_months      = case p_name when 'history_months' then p_value::integer else s.history_months end;
  exception
    when check_violation or data_exception then
      raise exception 'setting %: % is not a value it can have', p_name, quote_literal(p_value)
        using errcode = 'AT001', detail = sqlerrm, hint = 'See its type and meaning in atm.settings.';
  end;
  perform atm_internal.write_audit('set_setting', p_name, p_reason, jsonb_build_object('old', v_old, 'new', p_value));
  return (select s.value from atm.settings s where s.name = p_name);
end
$$;

comment on function atm.set_setting(text, text, text) is
$$Changes a setting; returns its new value.
  name    one of atm.settings
  value   as text, such as '5', '30 s', 'off', 'suspected'
  reason  why; kept in atm.audit
Errors: AT001 the value does not fit, or no reason; AT008 no such setting.
Locks the settings row until the end of the transaction.$$;
