-- Plans many RemoveVm commands, a child command and an announced task per disk; a statement each for planning and for binding.
select atm.plan_command(%(epoch)s, jsonb_build_object(
         'command_id', gen_random_uuid(), 'action_type', 'RemoveVm',
         'entities', jsonb_build_array(jsonb_build_object('type', 'VM', 'id', gen_random_uuid(), 'access', 'exclusive')),
         'children', (
           select jsonb_agg(jsonb_build_object(
                    'action_type', 'RemoveImage',
                    'entities', jsonb_build_array(jsonb_build_object('type', 'Disk', 'id', gen_random_uuid(), 'access', 'exclusive')),
                    'tasks', jsonb_build_array(jsonb_build_object(
                      'task_type', 'deleteImage', 'storage_pool_id', %(pool)s::uuid, 'submit', true))))
             from generate_series(1, %(tasks_per_command)s) disk
            where command > 0)))  -- it depends on the command, so each has disks of its own
  from generate_series(1, %(commands)s) command
