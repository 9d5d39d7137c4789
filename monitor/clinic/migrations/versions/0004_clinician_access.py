"""How a clinician reads: through functions that first write down who reads what of whom, and there is no other way.

Rows are gathered whole before the first is given out, so what is read is what was written down; in a transaction that may not write,
nothing can be read. A refusal is an error, which takes its row out of the audit, but not the line out of the server's log.
"""

from monitor.clinic.migrations.statements import run

revision = "0004"
down_revision = "0003"

_SAFE = "SECURITY DEFINER SET search_path = pg_catalog, emosllm, pg_temp"
_RANGE = "whom text, from_moment timestamptz, to_moment timestamptz"

_FUNCTIONS = f"""
CREATE FUNCTION emosllm.may_read(whom text, what text, from_moment timestamptz, to_moment timestamptz)
    RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        IF whom IS NULL OR whom <> ALL (emosllm.entrusted()) THEN
            RAISE LOG 'emosllm audit: % was refused % of subject %', quote_literal(session_user::text), what,
                quote_nullable(regexp_replace(left(whom, 63), '[^[:print:]]', '?', 'g'));
            RAISE EXCEPTION 'that subject is not entrusted to you' USING ERRCODE = 'insufficient_privilege';
        END IF;
        PERFORM emosllm.record('read ' || what, whom, NULL, from_moment, to_moment);
    END $$;

CREATE FUNCTION emosllm.read_segments({_RANGE})
    RETURNS TABLE (id bigint, stream text, start_sample bigint, end_sample bigint, start_at timestamptz, end_at timestamptz, zone text,
        state text, reason text, posterior json, unsure boolean, bundle_version text, judged_at timestamptz,
        loudness_db double precision, pitch_hz double precision,
        said_id bigint, said_emotion text, said_confirmed boolean, said_at timestamptz)
    LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.may_read(whom, 'segments and corrections', from_moment, to_moment);
        RETURN QUERY
            SELECT one.id, one.stream, one.start_sample, one.end_sample, one.start_at, one.end_at, one.zone, one.state, one.reason,
                one.posterior, one.unsure, one.bundle_version, one.judged_at, one.loudness_db, one.pitch_hz,
                said.id, said.emotion, said.confirmed, said.at
            FROM emosllm.segment AS one LEFT JOIN LATERAL (
                SELECT correction.id, correction.emotion, correction.confirmed, correction.at FROM emosllm.correction
                WHERE correction.subject = whom AND correction.stream = one.stream AND correction.start_sample = one.start_sample
                    AND correction.undone_at IS NULL
                ORDER BY correction.id DESC LIMIT 1
            ) AS said ON true
            WHERE one.subject = whom AND one.end_at > from_moment
                AND one.start_at > from_moment - interval '60 s' AND one.start_at < to_moment
            ORDER BY one.start_at, one.id;
    END $$;

CREATE FUNCTION emosllm.read_coverage({_RANGE})
    RETURNS TABLE (stream text, kind text, start_at timestamptz, end_at timestamptz, zone text, reason text)
    LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.may_read(whom, 'coverage', from_moment, to_moment);
        RETURN QUERY
            SELECT one.stream, one.kind, one.start_at, one.end_at, one.zone, one.reason FROM emosllm.coverage AS one
            WHERE one.subject = whom AND one.start_at < to_moment AND one.end_at > from_moment ORDER BY one.start_at, one.id;
    END $$;

CREATE FUNCTION emosllm.read_checkins({_RANGE})
    RETURNS TABLE (id bigint, at timestamptz, zone text, valence double precision, emotion text)
    LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.may_read(whom, 'check-ins', from_moment, to_moment);
        RETURN QUERY
            SELECT one.id, one.at, one.zone, one.valence, one.emotion FROM emosllm.checkin AS one
            WHERE one.subject = whom AND one.at >= from_moment AND one.at < to_moment ORDER BY one.at, one.id;
    END $$;

CREATE FUNCTION emosllm.read_prompts({_RANGE})
    RETURNS TABLE (id bigint, at timestamptz, zone text, checkin_id bigint)
    LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.may_read(whom, 'prompts', from_moment, to_moment);
        RETURN QUERY
            SELECT one.id, one.at, one.zone, one.checkin_id FROM emosllm.prompt AS one
            WHERE one.subject = whom AND one.at >= from_moment AND one.at < to_moment ORDER BY one.at, one.id;
    END $$;

-- In which zone the subject's days are days: that of the last time that was accounted for.
CREATE FUNCTION emosllm.read_zone(whom text) RETURNS text LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.may_read(whom, 'zone', NULL, NULL);
        RETURN (SELECT one.zone FROM emosllm.coverage AS one WHERE one.subject = whom ORDER BY one.end_at DESC LIMIT 1);
    END $$;
"""

_RIGHTS = """
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA emosllm FROM PUBLIC;
GRANT EXECUTE ON FUNCTION emosllm.read_segments(text, timestamptz, timestamptz), emosllm.read_coverage(text, timestamptz, timestamptz),
    emosllm.read_checkins(text, timestamptz, timestamptz), emosllm.read_prompts(text, timestamptz, timestamptz),
    emosllm.read_zone(text) TO emosllm_clinician;
"""


def upgrade() -> None:
    """Create the functions."""
    run((_FUNCTIONS, _RIGHTS))
