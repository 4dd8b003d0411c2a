-- What was migrated and loaded, and the functions that load the repeatable files.
--
-- Run before every migration, so every statement can be repeated. All of it is in a schema of its
-- own that nobody but its owner can use; yoyo's tables are in the same schema.

CREATE SCHEMA IF NOT EXISTS atm_migration;

CREATE TABLE IF NOT EXISTS atm_migration.applied_file (
    migration_id text PRIMARY KEY,
    sha256       text NOT NULL,
    applied_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS atm_migration.load (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    content_hash    text NOT NULL,
    program_version text NOT NULL,
    loaded_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS atm_migration.loaded_object (
    kind     text NOT NULL,
    identity text NOT NULL,
    PRIMARY KEY (kind, identity)
);

-- The state before the files ran; filled and emptied within the loading transaction.
CREATE TABLE IF NOT EXISTS atm_migration.object_before (
    kind     text NOT NULL,
    identity text NOT NULL,
    version  text NOT NULL,
    PRIMARY KEY (kind, identity)
);

-- Functions, procedures, aggregates, views and triggers. `version` changes whenever the object is
-- replaced: a view's definition is its rule, and a new row version has a new place in its table
-- even when one transaction touches it twice.
CREATE OR REPLACE FUNCTION atm_migration.objects()
RETURNS TABLE (kind text, identity text, catalog oid, object oid, version text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.type, i.identity, o.catalog, o.object, o.version
    FROM (
        SELECT 'pg_catalog.pg_proc'::regclass::oid, p.oid, p.pronamespace,
               concat(p.xmin, ' ', p.ctid)
        FROM pg_catalog.pg_proc AS p
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass::oid, c.oid, c.relnamespace,
               concat(r.xmin, ' ', r.ctid)
        FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = c.oid AND r.rulename = '_RETURN'
        WHERE c.relkind = 'v'
        UNION ALL
        SELECT 'pg_catalog.pg_trigger'::regclass::oid, t.oid, c.relnamespace,
               concat(t.xmin, ' ', t.ctid)
        FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
        WHERE NOT t.tgisinternal AND t.tgparentid = 0
    ) AS o (catalog, object, namespace, version)
    JOIN pg_catalog.pg_namespace AS n ON n.oid = o.namespace
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.catalog, o.object, 0) AS i
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'atm_migration')
$$;

CREATE OR REPLACE FUNCTION atm_migration.missing_objects() RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(*)
    FROM atm_migration.loaded_object AS l
    WHERE NOT EXISTS (
        SELECT FROM atm_migration.objects() AS o
        WHERE o.kind = l.kind AND o.identity = l.identity
    )
$$;

-- Grants and comments of loaded objects as of a new object: CREATE OR REPLACE keeps old ones, and
-- then an upgraded database would differ from a fresh one.
CREATE OR REPLACE FUNCTION atm_migration.reset_loaded_objects() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    o record;
    g record;
BEGIN
    FOR o IN
        SELECT x.*
        FROM atm_migration.objects() AS x
        JOIN atm_migration.loaded_object USING (kind, identity)
    LOOP
        EXECUTE format('COMMENT ON %s %s IS NULL', o.kind, o.identity);
        IF o.kind = 'view' THEN
            FOR g IN
                SELECT a.attname
                FROM pg_catalog.pg_description AS d
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
                WHERE d.classoid = o.catalog AND d.objoid = o.object AND d.objsubid > 0
            LOOP
                EXECUTE format('COMMENT ON COLUMN %s.%I IS NULL', o.identity, g.attname);
            END LOOP;
        END IF;
        FOR g IN
            SELECT DISTINCT CASE e.grantee
                       WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(e.grantee)) END AS name
            FROM (
                SELECT p.proowner, p.proacl
                FROM pg_catalog.pg_proc AS p
                WHERE o.catalog = 'pg_catalog.pg_proc'::regclass AND p.oid = o.object
                UNION ALL
                SELECT c.relowner, c.relacl
                FROM pg_catalog.pg_class AS c
                WHERE o.kind = 'view' AND c.oid = o.object
                UNION ALL
                SELECT c.relowner, a.attacl
                FROM pg_catalog.pg_class AS c
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
                WHERE o.kind = 'view' AND c.oid = o.object
            ) AS acl (owner, items)
            CROSS JOIN LATERAL aclexplode(acl.items) AS e
            WHERE e.grantee <> acl.owner
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s CASCADE',
                           CASE o.kind WHEN 'view' THEN 'TABLE' ELSE 'ROUTINE' END,
                           o.identity, g.name);
        END LOOP;
        IF o.catalog = 'pg_catalog.pg_proc'::regclass THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', o.identity);
        END IF;
    END LOOP;
END
$$;

-- Drops loaded objects in an order that their dependencies allow; never with CASCADE, because what
-- else depends on them is not ours.
CREATE OR REPLACE FUNCTION atm_migration.drop_objects(kinds text[], identities text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    left_kinds text[];
    left_identities text[];
    why text;
BEGIN
    WHILE cardinality(identities) > 0 LOOP
        left_kinds := '{}';
        left_identities := '{}';
        FOR i IN 1 .. cardinality(identities) LOOP
            BEGIN
                EXECUTE format('DROP %s %s', kinds[i], identities[i]);
            EXCEPTION WHEN dependent_objects_still_exist THEN
                GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
                left_kinds := left_kinds || kinds[i];
                left_identities := left_identities || identities[i];
            END;
        END LOOP;
        IF cardinality(left_identities) = cardinality(identities) THEN
            RAISE EXCEPTION '% % is replaced or no longer defined, and cannot be dropped',
                left_kinds[1], left_identities[1]
                USING ERRCODE = 'dependent_objects_still_exist', DETAIL = why,
                      HINT = 'Drop what depends on it first; it can be made again afterwards.';
        END IF;
        kinds := left_kinds;
        identities := left_identities;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION atm_migration.begin_load() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- One load at a time, whoever it is; and no other definition of these objects meanwhile.
    LOCK TABLE atm_migration.loaded_object IN SHARE ROW EXCLUSIVE MODE;
    PERFORM atm_migration.reset_loaded_objects();
    DELETE FROM atm_migration.object_before;
    INSERT INTO atm_migration.object_before (kind, identity, version)
    SELECT kind, identity, version FROM atm_migration.objects();
END
$$;

-- For the case that a definition cannot be replaced, because its result or its arguments' names
-- have changed: all loaded objects go, and the files make them again.
CREATE OR REPLACE FUNCTION atm_migration.drop_loaded_objects() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM atm_migration.drop_objects(array_agg(kind), array_agg(identity))
    FROM atm_migration.objects()
    JOIN atm_migration.loaded_object USING (kind, identity)
    HAVING count(*) > 0;
END
$$;

-- Drops what the files no longer define, checks every body, and notes what was loaded. Returns what
-- was dropped.
CREATE OR REPLACE FUNCTION atm_migration.end_load(content_hash text, program_version text)
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone_kinds text[];
    gone_identities text[];
    f record;
    context text;
BEGIN
    SELECT coalesce(array_agg(o.kind), '{}'), coalesce(array_agg(o.identity), '{}')
    INTO gone_kinds, gone_identities
    FROM atm_migration.objects() AS o
    JOIN atm_migration.loaded_object AS l USING (kind, identity)
    JOIN atm_migration.object_before AS b USING (kind, identity, version);

    PERFORM atm_migration.drop_objects(gone_kinds, gone_identities);

    -- An object that a migration made stays the migration's, even if a file replaces it.
    INSERT INTO atm_migration.object_before AS b (kind, identity, version)
    SELECT o.kind, o.identity, 'loaded'
    FROM atm_migration.objects() AS o
    LEFT JOIN atm_migration.object_before AS old USING (kind, identity)
    LEFT JOIN atm_migration.loaded_object AS l USING (kind, identity)
    WHERE old.version IS NULL OR old.version <> o.version AND l.identity IS NOT NULL
    ON CONFLICT (kind, identity) DO UPDATE SET version = 'loaded';
    -- Asked here, because all objects may have been dropped and made again in between.
    SELECT coalesce(array_agg(l.identity ORDER BY l.identity), '{}') INTO gone_identities
    FROM atm_migration.loaded_object AS l
    LEFT JOIN atm_migration.object_before AS b USING (kind, identity)
    WHERE b.version IS DISTINCT FROM 'loaded';
    DELETE FROM atm_migration.loaded_object;
    INSERT INTO atm_migration.loaded_object (kind, identity)
    SELECT b.kind, b.identity FROM atm_migration.object_before AS b WHERE b.version = 'loaded';
    DELETE FROM atm_migration.object_before;

    -- The files ran without checks of the bodies, so that their order does not matter.
    PERFORM set_config('check_function_bodies', 'on', true);
    FOR f IN
        SELECT l.lanvalidator::regproc AS validator, p.oid, o.identity
        FROM atm_migration.objects() AS o
        JOIN atm_migration.loaded_object USING (kind, identity)
        JOIN pg_catalog.pg_proc AS p ON p.oid = o.object
        JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
        WHERE o.catalog = 'pg_catalog.pg_proc'::regclass AND l.lanvalidator <> 0
    LOOP
        BEGIN
            EXECUTE format('SELECT %s(%s)', f.validator, f.oid);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
            RAISE EXCEPTION '%: %', f.identity, SQLERRM
                USING ERRCODE = SQLSTATE, DETAIL = split_part(context, E'\n', 1);
        END;
    END LOOP;

    INSERT INTO atm_migration.load (content_hash, program_version)
    VALUES (end_load.content_hash, end_load.program_version)
    ON CONFLICT (only_row) DO UPDATE
    SET content_hash = excluded.content_hash, program_version = excluded.program_version,
        loaded_at = now();
    RETURN gone_identities;
END
$$;

REVOKE ALL ON ALL ROUTINES IN SCHEMA atm_migration FROM PUBLIC;
