-- The catalogue of error codes.
--
-- AT0xx bad call, AT1xx wrong state, AT2xx stale epoch, lease or token, AT3xx entity busy. A call
-- that raises changes nothing. 40001 and 40P01 are PostgreSQL's own: repeat the transaction.

delete from atm_internal.error_code;
insert into atm_internal.error_code (code, name, meaning, remedy) values
  ('AT001', 'bad_argument',        'An argument is NULL or has a value outside its range.',          'Pass the argument that the message names.'),
  ('AT002', 'unknown_key',         'A document has a key that pyatm does not know.',                 'Remove the key or correct its spelling.'),
  ('AT003', 'missing_key',         'A document lacks a key that is required.',                       'Add the key.'),
  ('AT004', 'bad_value',           'A value in a document has the wrong type or form.',              'Correct the value at the path that the message names.'),
  ('AT005', 'duplicate_id',        'An id stands twice in one plan.',                                'Give each command and each task an id of its own.'),
  ('AT006', 'too_large',           'Parameters are larger than the setting parameters_limit.',       'Keep large data elsewhere and pass a reference, or raise the setting.'),
  ('AT007', 'unknown_pool',        'The storage pool is not set.',                                   'Call atm.set_pool first.'),
  ('AT008', 'not_found',           'There is no such command, task, pool, orphan or setting.',       'Look at atm.commands, atm.tasks, atm.pools, atm.orphans, atm.settings or atm.history.'),
  ('AT101', 'other_plan',          'The command is planned already, with another plan.',             'Use a new command id, or repeat the plan as it was given.'),
  ('AT102', 'in_history',          'The command is over and in the history.',                        'Use a new command id.'),
  ('AT103', 'command_closed',      'The command takes no more tasks or changes.',                    'Plan it with "seal": false to add tasks later; see its state in atm.commands.'),
  ('AT104', 'wrong_task_state',    'The task is not in a state in which this can be done.',          'See its state in atm.tasks.'),
  ('AT105', 'vdsm_id_taken',       'The VDSM task id is bound to another task.',                     'Look for the task in atm.tasks by vdsm_task_id.'),
  ('AT106', 'id_taken',            'A command or task with this id exists already.',                 'Use a new id.'),
  ('AT107', 'wrong_command_state', 'The command is not in a state in which this can be done.',       'See its state in atm.commands.'),
  ('AT108', 'pool_in_use',         'The storage pool has live tasks or orphans.',                    'Wait until they are over; see atm.tasks and atm.orphans.'),
  ('AT109', 'pool_drained',        'The storage pool is being drained and takes no new tasks.',      'Plan in another pool, or end the drain with atm.drain_pool(..., drained => false).'),
  ('AT201', 'stale_epoch',         'The engine has started again: this incarnation may not write.',  'Stop this engine process, or call atm.start_engine in the new one.'),
  ('AT202', 'stale_lease',         'The poller does not hold the pool any more.',                    'Stop touching the pool and call atm.acquire_pools.'),
  ('AT203', 'stale_token',         'The endAction was finished, or claimed again by another.',       'Drop this endAction; its transaction must not commit.'),
  ('AT301', 'entity_busy',         'Another command holds an entity in a conflicting way.',          'Wait for the holders in DETAIL; see atm.blockers.');

create or replace view atm.errors as
select e.code, e.name, e.meaning, e.remedy from atm_internal.error_code e order by e.code;

comment on view atm.errors is 'The SQLSTATEs that the functions of schema atm raise, with what to do.';

-- Raises AT001 for the first argument that is NULL. The caller has found with num_nulls, which costs
-- less than this call, that there is one.
create or replace function atm_internal.refuse_null(p_function text, p_arguments jsonb) returns void
language plpgsql as $$
declare
  v_name text;
begin
  select a.key into v_name from jsonb_each(p_arguments) a where a.value = 'null' order by a.key limit 1;
  raise exception 'atm.%: argument % must not be NULL', p_function, coalesce(v_name, '?')
    using errcode = 'AT001', hint = 'Pass a value for this argument.';
end
$$;

-- Raises the error for an epoch that no engine has now.
create or replace function atm_internal.refuse_epoch(p_epoch bigint) returns void
language plpgsql as $$
begin
  raise exception 'epoch % is stale', p_epoch
    using errcode = 'AT201',
          detail = 'The engine has been started again, or this epoch never was.',
          hint = 'Only the epoch that the last atm.start_engine of this engine returned may write.';
end
$$;

-- True when the epoch is that of a running engine. A reader, not a lock: what it guards is fenced by the
-- rows themselves (task.epoch, root.epoch).
create or replace function atm_internal.is_current(p_epoch bigint) returns boolean
language sql stable as $$
  select exists (select from atm_internal.engine e where e.epoch = p_epoch)
$$;
