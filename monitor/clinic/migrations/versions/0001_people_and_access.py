"""Who has a login and as what, who is entrusted to whom, and the audit.

Every function that runs with its owner's rights (SECURITY DEFINER) fixes where names are looked up, and asks who has logged in
(`session_user`), which SET ROLE does not change. The owner cannot log in, and nobody but an administrator can become it.
"""

from monitor.clinic.migrations.statements import run

revision = "0001"
down_revision = None

_SAFE = "SECURITY DEFINER SET search_path = pg_catalog, emosllm, pg_temp"

_TABLES = """
CREATE TABLE emosllm.clinic (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    edition uuid NOT NULL DEFAULT gen_random_uuid()
);
COMMENT ON COLUMN emosllm.clinic.edition IS 'changed after a backup was put back: monitors send everything again';
INSERT INTO emosllm.clinic DEFAULT VALUES;

CREATE TABLE emosllm.person (
    login text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('subject', 'clinician', 'operator')),
    subject text UNIQUE CHECK ((kind = 'subject') = (subject IS NOT NULL)),
    added_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz
);
COMMENT ON COLUMN emosllm.person.seen_at IS 'when a monitor of the subject sent something last';

CREATE TABLE emosllm.trust (
    clinician text REFERENCES emosllm.person (login) ON DELETE CASCADE,
    subject text REFERENCES emosllm.person (subject) ON DELETE CASCADE,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (clinician, subject)
);

CREATE TABLE emosllm.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    login text NOT NULL,
    what text NOT NULL,
    subject text,
    about text,
    from_at timestamptz,
    to_at timestamptz,
    address inet
);
CREATE INDEX audit_by_subject ON emosllm.audit (subject, at);
"""

_ASKING = f"""
CREATE FUNCTION emosllm.own_subject() RETURNS text LANGUAGE sql STABLE {_SAFE}
    AS $$ SELECT subject FROM emosllm.person WHERE login = session_user::text AND kind = 'subject' $$;

CREATE FUNCTION emosllm.entrusted() RETURNS text[] LANGUAGE sql STABLE {_SAFE}
    AS $$ SELECT coalesce(array_agg(subject ORDER BY subject), '{{}}') FROM emosllm.trust WHERE clinician = session_user::text $$;

CREATE FUNCTION emosllm.is_administrator() RETURNS boolean LANGUAGE sql STABLE {_SAFE}
    AS $$ SELECT pg_has_role(session_user, 'emosllm_owner', 'MEMBER') $$;

CREATE FUNCTION emosllm.is_operator() RETURNS boolean LANGUAGE sql STABLE {_SAFE}
    AS $$
        SELECT emosllm.is_administrator()
            OR EXISTS (SELECT 1 FROM emosllm.person WHERE login = session_user::text AND kind = 'operator')
    $$;
"""

# The server's log keeps what a transaction that is rolled back takes out of the table.
_AUDIT = f"""
CREATE FUNCTION emosllm.record(what text, subject text, about text DEFAULT NULL,
                               from_at timestamptz DEFAULT NULL, to_at timestamptz DEFAULT NULL)
    RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        RAISE LOG 'emosllm audit: % % subject % about % from % to %', quote_literal(session_user::text), what,
            quote_nullable(subject), quote_nullable(about), from_at, to_at;
        INSERT INTO emosllm.audit (login, what, subject, about, from_at, to_at, address)
            VALUES (session_user::text, what, subject, about, from_at, to_at, inet_client_addr());
    END $$;

CREATE FUNCTION emosllm.refuse_change() RETURNS trigger LANGUAGE plpgsql {_SAFE}
    AS $$ BEGIN RAISE EXCEPTION 'the audit is only ever added to' USING ERRCODE = 'insufficient_privilege'; END $$;

CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON emosllm.audit
    FOR EACH STATEMENT EXECUTE FUNCTION emosllm.refuse_change();
ALTER TABLE emosllm.audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE emosllm.audit FORCE ROW LEVEL SECURITY;
CREATE POLICY recorded ON emosllm.audit FOR INSERT TO emosllm_owner WITH CHECK (login = session_user::text);
CREATE POLICY about_me ON emosllm.audit FOR SELECT TO emosllm_subject USING (subject = (SELECT emosllm.own_subject()));
CREATE POLICY all_of_it ON emosllm.audit FOR SELECT TO emosllm_operator, emosllm_owner USING ((SELECT emosllm.is_operator()));
GRANT SELECT ON emosllm.audit TO emosllm_subject, emosllm_operator;
"""

_RIGHTS = """
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA emosllm FROM PUBLIC;
GRANT USAGE ON SCHEMA emosllm TO emosllm_subject, emosllm_clinician, emosllm_operator;
GRANT EXECUTE ON FUNCTION emosllm.own_subject() TO emosllm_subject;
GRANT EXECUTE ON FUNCTION emosllm.entrusted() TO emosllm_clinician;
GRANT EXECUTE ON FUNCTION emosllm.is_operator() TO emosllm_operator;
"""


def upgrade() -> None:
    """Create the tables, the functions that know who asks, and the audit."""
    run((_TABLES, _ASKING, _AUDIT, _RIGHTS))
