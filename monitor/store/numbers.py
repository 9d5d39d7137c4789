"""Numbers of segments, which are never given a second time: not even after the newest segments were erased.

Somebody may still hold the number of what was erased: a judging process about to answer, a person about to label it, a bundle that
learned from it. SQLite would give the highest number again; so the database's `user_version`, which nothing else uses, holds the
highest one ever erased.
"""

from monitor.store.cipher import Connection

NEXT_SEGMENT = """
    SELECT max((SELECT coalesce(max(id), 0) FROM segment), (SELECT user_version FROM pragma_user_version)) + 1"""
"""The query for the number of the next segment; for whoever holds the write lock."""


def never_again(connection: Connection, highest: int) -> None:
    """Give no number up to `highest` again, from the end of the transaction on."""
    known = int(connection.execute("PRAGMA user_version").fetchone()[0])
    connection.execute(f"PRAGMA user_version = {max(known, highest)}")
