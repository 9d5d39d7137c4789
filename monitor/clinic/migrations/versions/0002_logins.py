"""What an operator may do: logins, and who is entrusted to whom. Nothing here gives out what a subject's rows hold.

PostgreSQL's right to create roles would let an operator take any other right; so it belongs to the owner of these functions alone.
"""

from monitor.clinic.migrations.statements import run

revision = "0002"
down_revision = "0001"

_SAFE = "SECURITY DEFINER SET search_path = pg_catalog, emosllm, pg_temp"

_FUNCTIONS = f"""
CREATE FUNCTION emosllm.must_operate(anew_kind text DEFAULT NULL) RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        IF NOT emosllm.is_operator() OR (anew_kind = 'operator' AND NOT emosllm.is_administrator()) THEN
            RAISE EXCEPTION 'this takes %', CASE anew_kind WHEN 'operator' THEN 'an administrator' ELSE 'an operator' END
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END $$;

-- verifier: what SCRAM keeps of a password; the password itself never gets here.
CREATE FUNCTION emosllm.add_login(name text, kind text, verifier text) RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.must_operate(kind);
        IF name !~ '^[a-z][a-z0-9_]{{0,39}}$' OR name ~ '^(pg_|emosllm)' OR verifier !~ '^SCRAM-SHA-256[$]' THEN
            RAISE EXCEPTION 'no login can be called that' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        EXECUTE format('CREATE ROLE %I LOGIN INHERIT NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS PASSWORD %L IN ROLE %I',
            name, verifier, 'emosllm_' || kind);
        INSERT INTO emosllm.person (login, kind, subject) VALUES (name, kind, CASE kind WHEN 'subject' THEN name END);
        PERFORM emosllm.record('added ' || kind, CASE kind WHEN 'subject' THEN name END, name);
    END $$;

CREATE FUNCTION emosllm.renew_password(name text, verifier text) RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    DECLARE known emosllm.person;
    BEGIN
        SELECT * INTO known FROM emosllm.person WHERE login = name;
        PERFORM emosllm.must_operate(known.kind);
        IF known.login IS NULL OR verifier !~ '^SCRAM-SHA-256[$]' THEN
            RAISE EXCEPTION 'there is no login of that name' USING ERRCODE = 'no_data_found';
        END IF;
        EXECUTE format('ALTER ROLE %I PASSWORD %L', name, verifier);
        PERFORM emosllm.record('renewed password', known.subject, name);
    END $$;

CREATE FUNCTION emosllm.entrust(to_clinician text, whom text) RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.must_operate();
        IF NOT EXISTS (SELECT 1 FROM emosllm.person WHERE login = to_clinician AND kind = 'clinician') THEN
            RAISE EXCEPTION 'there is no clinician of that name' USING ERRCODE = 'no_data_found';
        ELSIF NOT EXISTS (SELECT 1 FROM emosllm.person WHERE subject = whom) THEN
            RAISE EXCEPTION 'there is no subject of that name' USING ERRCODE = 'no_data_found';
        END IF;
        INSERT INTO emosllm.trust (clinician, subject) VALUES (to_clinician, whom) ON CONFLICT DO NOTHING;
        PERFORM emosllm.record('entrusted', whom, to_clinician);
    END $$;

CREATE FUNCTION emosllm.withdraw(from_clinician text, whom text) RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.must_operate();
        DELETE FROM emosllm.trust WHERE clinician = from_clinician AND subject = whom;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'that subject is not entrusted to that clinician' USING ERRCODE = 'no_data_found';
        END IF;
        PERFORM emosllm.record('withdrawn', whom, from_clinician);
    END $$;

CREATE FUNCTION emosllm.subjects() RETURNS TABLE (subject text, added_at timestamptz, seen_at timestamptz, clinicians text[])
    LANGUAGE plpgsql STABLE {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.must_operate();
        RETURN QUERY
            SELECT one.subject, one.added_at, one.seen_at,
                ARRAY(SELECT clinician FROM emosllm.trust WHERE trust.subject = one.subject ORDER BY clinician)
            FROM emosllm.person AS one WHERE one.kind = 'subject' ORDER BY one.subject;
    END $$;

CREATE FUNCTION emosllm.send_again() RETURNS void LANGUAGE plpgsql {_SAFE}
    AS $$
    BEGIN
        PERFORM emosllm.must_operate();
        UPDATE emosllm.clinic SET edition = gen_random_uuid();
        PERFORM emosllm.record('asked monitors to send again', NULL);
    END $$;
"""

_RIGHTS = """
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA emosllm FROM PUBLIC;
GRANT EXECUTE ON FUNCTION emosllm.add_login(text, text, text), emosllm.renew_password(text, text), emosllm.entrust(text, text),
    emosllm.withdraw(text, text), emosllm.subjects(), emosllm.send_again() TO emosllm_operator;
"""


def upgrade() -> None:
    """Create the functions."""
    run((_FUNCTIONS, _RIGHTS))
