"""Changes the key of a database and of its backups, so that whatever interrupts it, every file can still be opened.

Both keys are stored before the first file is encrypted anew, each file is replaced at one stroke, and the old key goes last.
"""

from contextlib import closing
from pathlib import Path

from model.errors import StoreKeyError, TimelineError
from monitor.store.backup import Backups
from monitor.store.cipher import Error, StoreKey, connect, salt_of
from monitor.store.copies import check, checked_copy
from monitor.store.key_places import EnvironmentKey, KeyPlace
from monitor.store.keys import Keys
from monitor.store.lock import sync, taking_turns
from monitor.store.reader import explain

_BUSY_TIMEOUT_S = 5.0


def rotate(database: Path, keys: Keys, backups: Backups) -> KeyPlace:
    """Give `database` and its backups a new key, or finish what was interrupted; returns where the key is.

    Only for the holder of the database's lock. Raises TimelineError, when one of the files is damaged too; all of them can
    still be opened then, and calling it again goes on.
    """
    if salt_of(database) is None:
        raise TimelineError(f"there is no timeline in {database} yet, and so no key to change")
    place, key = keys.place_of(database)
    if isinstance(place, EnvironmentKey):
        raise StoreKeyError(f'the key is in {place}, which cannot be changed from here; keep it with [timeline] key = "file" or "keyring"')
    for aside in database.parent.glob(f"{database.name}.aside-*"):
        raise TimelineError(f"{aside} could not be opened any more without the old key; move it away or remove it, then try again")
    _fold_in(database, key)
    with taking_turns(backups.folder):
        new = _both_stored(place, key)
        for file in (*(backup.path for backup in backups.found()), database):
            if salt_of(file) != new.salt:
                _encrypt_anew(file, keys.find(database, copy=file), new)
        place.write((new,))
    return place


def _both_stored(place: KeyPlace, key: StoreKey) -> StoreKey:
    """The new key, stored beside the old one: an earlier one where a change was interrupted."""
    stored = place.read()
    if len(stored) > 1:
        return stored[-1]
    new = StoreKey.new()
    place.write((key, new))
    return new


def _fold_in(database: Path, key: StoreKey) -> None:
    """Bring all that is in the write-ahead log into the file, which is to be replaced; nobody else may have it open."""
    try:
        with closing(connect(database, key, read_only=False, timeout_s=_BUSY_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        check(database, key, database)
    except Error as error:
        raise explain(error, database) from error


def _encrypt_anew(file: Path, key: StoreKey, new: StoreKey) -> None:
    with checked_copy(file, key, file, new) as copy:
        copy.replace(file)
        sync(file.parent)
