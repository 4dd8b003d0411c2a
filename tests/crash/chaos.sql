-- What the load engine writes in the transactions of pyatm, to be compared with pyatm's own account.
CREATE SCHEMA chaos;

-- One row per planning transaction that has committed; held_from is read after plan_command.
CREATE TABLE chaos.planned (
    root_command_id uuid PRIMARY KEY,
    engine_name     text NOT NULL,
    epoch           bigint NOT NULL,
    document        jsonb NOT NULL,
    held_from       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row per endAction that took effect; without a key on the command, so that a second effect is
-- seen and not refused.
CREATE TABLE chaos.effect (
    effect_no       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    root_command_id uuid NOT NULL,
    token           bigint NOT NULL,
    outcome         text NOT NULL,
    compensated     jsonb NOT NULL,
    at              timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT USAGE ON SCHEMA chaos TO atm_engine;
GRANT SELECT, INSERT ON chaos.planned, chaos.effect TO atm_engine;
