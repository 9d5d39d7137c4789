"""The rows that monitors send, by subject: the columns of the timeline's own tables, but for words and sound, which never leave a machine.

`id` and what refers to it are the numbers on the machine that a row came from: they order rows, and do not identify them. A row is what
an import takes for the same row: a segment by its stream and first sample, coverage by its stream, kind and start, and so on. Segments
and coverage lie in a partition for each month, made on demand and ahead; what fits none lies in the default one, so nothing is refused.
"""

from monitor.clinic.migrations.statements import run

revision = "0003"
down_revision = "0002"

_SAFE = "SECURITY DEFINER SET search_path = pg_catalog, emosllm, pg_temp"
_TABLES_OF_ROWS = ("segment", "coverage", "correction", "checkin", "prompt")

# json, not jsonb: the order of letters counts where two are equally likely.
_TABLES = """
CREATE TABLE emosllm.segment (
    subject text NOT NULL DEFAULT emosllm.own_subject(),
    id bigint NOT NULL,
    stream text NOT NULL,
    start_sample bigint NOT NULL,
    end_sample bigint NOT NULL,
    start_at timestamptz NOT NULL,
    end_at timestamptz NOT NULL,
    zone text NOT NULL,
    state text NOT NULL,
    reason text,
    emotion text,
    confidence double precision,
    unsure boolean,
    posterior json,
    bundle_version text,
    judged_at timestamptz,
    loudness_db double precision,
    pitch_hz double precision,
    CONSTRAINT segment_once PRIMARY KEY (subject, stream, start_sample, start_at),
    CONSTRAINT segment_samples CHECK (0 <= start_sample AND start_sample < end_sample),
    CONSTRAINT segment_times CHECK (start_at < end_at),
    CONSTRAINT segment_state CHECK (state IN ('judged', 'unjudged')),
    CONSTRAINT segment_reason CHECK ((state = 'unjudged') = (reason IS NOT NULL)),
    CONSTRAINT segment_judged CHECK (
        num_nonnulls(emotion, confidence, unsure, posterior, bundle_version, judged_at) = CASE state WHEN 'judged' THEN 6 ELSE 0 END
    ),
    CONSTRAINT segment_confidence CHECK (confidence BETWEEN 0 AND 1)
) PARTITION BY RANGE (start_at);
CREATE INDEX segment_by_start ON emosllm.segment (subject, start_at);

CREATE TABLE emosllm.coverage (
    subject text NOT NULL DEFAULT emosllm.own_subject(),
    id bigint NOT NULL,
    stream text NOT NULL,
    kind text NOT NULL,
    start_at timestamptz NOT NULL,
    end_at timestamptz NOT NULL,
    zone text NOT NULL,
    reason text NOT NULL,
    CONSTRAINT coverage_once PRIMARY KEY (subject, stream, kind, start_at, reason),
    CONSTRAINT coverage_times CHECK (start_at < end_at)
) PARTITION BY RANGE (start_at);
CREATE INDEX coverage_by_end ON emosllm.coverage (subject, end_at);

CREATE TABLE emosllm.correction (
    subject text NOT NULL DEFAULT emosllm.own_subject(),
    id bigint NOT NULL,
    segment_id bigint NOT NULL,
    stream text NOT NULL,
    start_sample bigint NOT NULL,
    start_at timestamptz NOT NULL,
    emotion text NOT NULL,
    confirmed boolean NOT NULL,
    at timestamptz NOT NULL,
    undone_at timestamptz,
    CONSTRAINT correction_once PRIMARY KEY (subject, stream, start_sample, at, emotion, confirmed),
    CONSTRAINT correction_letter CHECK (length(emotion) = 1)
);
COMMENT ON COLUMN emosllm.correction.start_at IS 'of the segment that stream and start_sample name';
CREATE INDEX correction_by_start ON emosllm.correction (subject, start_at);

CREATE TABLE emosllm.checkin (
    subject text NOT NULL DEFAULT emosllm.own_subject(),
    id bigint NOT NULL,
    at timestamptz NOT NULL,
    zone text NOT NULL,
    valence double precision NOT NULL,
    emotion text NOT NULL,
    CONSTRAINT checkin_once PRIMARY KEY (subject, at, zone, valence, emotion),
    CONSTRAINT checkin_valence CHECK (valence BETWEEN -1 AND 1),
    CONSTRAINT checkin_letter CHECK (length(emotion) = 1)
);

CREATE TABLE emosllm.prompt (
    subject text NOT NULL DEFAULT emosllm.own_subject(),
    id bigint NOT NULL,
    at timestamptz NOT NULL,
    zone text NOT NULL,
    checkin_id bigint,
    CONSTRAINT prompt_once PRIMARY KEY (subject, at, zone)
);

CREATE TABLE emosllm.segment_other PARTITION OF emosllm.segment DEFAULT;
CREATE TABLE emosllm.coverage_other PARTITION OF emosllm.coverage DEFAULT;
"""

# The owner's own policies: its functions read for whom a subject is entrusted to, and erase for an operator. It never writes a row.
_POLICIES = """
ALTER TABLE emosllm.{table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE emosllm.{table} FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON emosllm.{table} TO emosllm_subject
    USING (subject = (SELECT emosllm.own_subject())) WITH CHECK (subject = (SELECT emosllm.own_subject()));
CREATE POLICY entrusted ON emosllm.{table} FOR SELECT TO emosllm_owner
    USING (subject = ANY ((SELECT emosllm.entrusted())::text[]) OR (SELECT emosllm.is_operator()));
CREATE POLICY removed ON emosllm.{table} FOR DELETE TO emosllm_owner USING ((SELECT emosllm.is_operator()));
GRANT SELECT, INSERT, UPDATE, DELETE ON emosllm.{table} TO emosllm_subject;
"""

# A partition is made beside its table and then attached: that stops nobody who writes to another month.
_FUNCTIONS = f"""
ALTER TABLE emosllm.segment_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE emosllm.segment_other FORCE ROW LEVEL SECURITY;
ALTER TABLE emosllm.coverage_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE emosllm.coverage_other FORCE ROW LEVEL SECURITY;

CREATE FUNCTION emosllm.make_month(of_table text, month date) RETURNS boolean LANGUAGE plpgsql {_SAFE}
    AS $$
    DECLARE
        first date := date_trunc('month', month);
        partition text := of_table || to_char(first, '_YYYY_MM');
    BEGIN
        IF of_table NOT IN ('segment', 'coverage') OR first < '2000-01-01' OR first > now() + interval '2 months' THEN
            RETURN false;
        ELSIF to_regclass('emosllm.' || partition) IS NOT NULL THEN
            RETURN true;
        END IF;
        PERFORM pg_advisory_xact_lock(hashtext('emosllm partitions'));
        IF to_regclass('emosllm.' || partition) IS NOT NULL THEN
            RETURN true;
        END IF;
        EXECUTE format('CREATE TABLE emosllm.%I (LIKE emosllm.%I INCLUDING ALL)', partition, of_table);
        EXECUTE format('ALTER TABLE emosllm.%I ENABLE ROW LEVEL SECURITY', partition);
        EXECUTE format('ALTER TABLE emosllm.%I FORCE ROW LEVEL SECURITY', partition);
        EXECUTE format('ALTER TABLE emosllm.%I ATTACH PARTITION emosllm.%I FOR VALUES FROM (%L) TO (%L)', of_table, partition,
            first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month') AT TIME ZONE 'UTC');
        RETURN true;
    EXCEPTION WHEN check_violation THEN
        RETURN false;  -- rows of that month lie in the default partition, and stay there
    END $$;

-- Locks the subject until the transaction ends, so that its monitors take turns, and none writes while it is removed.
CREATE FUNCTION emosllm.begin_sending() RETURNS TABLE (subject text, clinic text, edition text) LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        UPDATE emosllm.person SET seen_at = now() WHERE login = session_user::text AND kind = 'subject';
        IF NOT FOUND THEN
            RAISE EXCEPTION 'this login is no subject of the clinic' USING ERRCODE = 'insufficient_privilege';
        END IF;
        RETURN QUERY SELECT emosllm.own_subject(), one.id::text, one.edition::text FROM emosllm.clinic AS one;
    END $$;

CREATE FUNCTION emosllm.remove_subject(whom text) RETURNS bigint LANGUAGE plpgsql {_SAFE}
    AS $$
    DECLARE
        known emosllm.person;
        of_table text;
        removed bigint := 0;
        rows bigint;
    BEGIN
        PERFORM emosllm.must_operate();
        SELECT * INTO known FROM emosllm.person WHERE subject = whom FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no subject of that name' USING ERRCODE = 'no_data_found';
        END IF;
        FOREACH of_table IN ARRAY ARRAY['segment', 'coverage', 'correction', 'checkin', 'prompt'] LOOP
            EXECUTE format('DELETE FROM emosllm.%I WHERE subject = $1', of_table) USING whom;
            GET DIAGNOSTICS rows = ROW_COUNT;
            removed := removed + rows;
        END LOOP;
        DELETE FROM emosllm.person WHERE login = known.login;
        EXECUTE format('DROP ROLE IF EXISTS %I', known.login);
        PERFORM emosllm.record('removed subject', whom);
        RETURN removed;
    END $$;
"""

_RIGHTS = """
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA emosllm FROM PUBLIC;
GRANT EXECUTE ON FUNCTION emosllm.make_month(text, date) TO emosllm_subject, emosllm_operator;
GRANT EXECUTE ON FUNCTION emosllm.begin_sending() TO emosllm_subject;
GRANT EXECUTE ON FUNCTION emosllm.remove_subject(text) TO emosllm_operator;
"""


def upgrade() -> None:
    """Create the tables, who may touch which of their rows, and the partitions' functions."""
    policies = [_POLICIES.format(table=table) for table in _TABLES_OF_ROWS]
    run((_TABLES, *policies, _FUNCTIONS, _RIGHTS))
