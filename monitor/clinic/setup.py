"""Sets the clinic's database up, or brings it up to date: roles, rights and tables. For an administrator; doing it again does no harm."""

from monitor.clinic.address import Address
from monitor.clinic.connection import explained, plain

# Nobody logs in as one of these: logins are given them.
_ROLES = """
DO $$
DECLARE one text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('emosllm set-up'));
    FOREACH one IN ARRAY ARRAY['emosllm_owner', 'emosllm_subject', 'emosllm_clinician', 'emosllm_operator'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = one) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', one);
        END IF;
    END LOOP;
    ALTER ROLE emosllm_owner CREATEROLE;
    GRANT emosllm_subject, emosllm_clinician, emosllm_operator TO emosllm_owner WITH ADMIN OPTION;
    IF NOT pg_has_role(session_user, 'emosllm_owner', 'MEMBER') THEN
        EXECUTE format('GRANT emosllm_owner TO %I', session_user);
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO emosllm_subject, emosllm_clinician, emosllm_operator', current_database());
    CREATE SCHEMA IF NOT EXISTS emosllm AUTHORIZATION emosllm_owner;
END $$
"""


def set_up(address: Address) -> str:
    """Returns the version of the tables. Raises ClinicError; then nothing has changed."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", "monitor.clinic:migrations")
    engine = create_engine("postgresql+psycopg://", creator=lambda: plain(address), poolclass=NullPool)
    with explained(address):
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(_ROLES, execution_options={"no_parameters": True})
                connection.exec_driver_sql("SET LOCAL ROLE emosllm_owner")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                return str(connection.exec_driver_sql("SELECT version_num FROM emosllm.alembic_version").scalar())
        except DBAPIError as error:
            raise error.orig or error from None
