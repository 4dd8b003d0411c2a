-- A toy inventory: what an engine keeps about VMs and disks. Not part of schema atm; made once by an
-- owner (`pyatm db inventory`), used by engines as members of atm_engine. Safe to repeat.
CREATE SCHEMA IF NOT EXISTS pyatm_inventory;

CREATE TABLE IF NOT EXISTS pyatm_inventory.vm (
    vm_id uuid PRIMARY KEY,
    name  text NOT NULL,
    state text NOT NULL DEFAULT 'OK' CHECK (state IN ('OK', 'LOCKED', 'ILLEGAL')),
    power text NOT NULL DEFAULT 'Up' CHECK (power IN ('Up', 'Down', 'Suspended'))
);

CREATE TABLE IF NOT EXISTS pyatm_inventory.template (
    template_id uuid PRIMARY KEY,
    vm_id       uuid NOT NULL,
    state       text NOT NULL DEFAULT 'LOCKED' CHECK (state IN ('OK', 'LOCKED', 'ILLEGAL'))
);

CREATE TABLE IF NOT EXISTS pyatm_inventory.snapshot (
    snapshot_id uuid PRIMARY KEY,
    vm_id       uuid NOT NULL,
    state       text NOT NULL DEFAULT 'LOCKED' CHECK (state IN ('OK', 'LOCKED', 'ILLEGAL'))
);

-- owner_id: the VM, template or snapshot that the disk belongs to. state ILLEGAL: nobody may rely
-- on what is on the storage.
CREATE TABLE IF NOT EXISTS pyatm_inventory.disk (
    disk_id         uuid PRIMARY KEY,
    owner_id        uuid NOT NULL,
    storage_pool_id uuid NOT NULL,
    domain_id       uuid NOT NULL,
    volume_id       uuid NOT NULL,
    size_bytes      bigint NOT NULL CHECK (size_bytes > 0),
    kind            text NOT NULL DEFAULT 'DATA' CHECK (kind IN ('DATA', 'MEMD', 'MEMM')),
    state           text NOT NULL DEFAULT 'OK' CHECK (state IN ('OK', 'LOCKED', 'ILLEGAL'))
);
CREATE INDEX IF NOT EXISTS disk_owner ON pyatm_inventory.disk (owner_id);

-- Storage domains that the inventory has heard of; Inactive: no flow may use it.
CREATE TABLE IF NOT EXISTS pyatm_inventory.storage_domain (
    domain_id uuid PRIMARY KEY,
    state     text NOT NULL DEFAULT 'Active' CHECK (state IN ('Active', 'Inactive'))
);

-- Volumes that VDSM has been asked to take back: the disk stays LOCKED until VDSM has said how that
-- ended. afterwards: what becomes of the disk when the volume is gone; else it is ILLEGAL.
CREATE TABLE IF NOT EXISTS pyatm_inventory.reverting (
    task_id         uuid PRIMARY KEY,
    root_command_id uuid NOT NULL,
    engine_name     text NOT NULL,
    disk_id         uuid NOT NULL,
    afterwards      text NOT NULL CHECK (afterwards IN ('remove', 'OK'))
);

-- One row per endAction that took effect; without a key on the command, so that a second effect
-- would be seen and not refused.
CREATE TABLE IF NOT EXISTS pyatm_inventory.effect (
    effect_no       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    root_command_id uuid NOT NULL,
    effect          text NOT NULL,
    at              timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT USAGE ON SCHEMA pyatm_inventory TO atm_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pyatm_inventory TO atm_engine;
