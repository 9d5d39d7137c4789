"""Looks into every byte of a timeline's files with the key in hand: free pages, slack within pages, and logs too, past SQLite.

A page of SQLCipher is AES-256-CBC with its start value and its checksum in the last 80 bytes; the first 16 bytes of the first page are
the salt. See https://www.zetetic.net/sqlcipher/design/.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from monitor.store.cipher import StoreKey

PAGE, _RESERVED, _IV, _SALT = 4096, 80, 16, 16
_WAL_HEADER, _FRAME_HEADER = 32, 24


def everything(folders: Iterable[Path], keys: Iterable[StoreKey]) -> bytes:
    """All bytes of all files in the folders, as they are, and as each key reads them."""
    found = []
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            found += [file.name.encode(), content, *(b"".join(_pages(content, key)) for key in keys)]
    return b"\0".join(found)


def _pages(content: bytes, key: StoreKey) -> Iterator[bytes]:
    if content[:4] in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"):
        step = PAGE + _FRAME_HEADER
        starts = range(_WAL_HEADER + _FRAME_HEADER, len(content) - PAGE + 1, step)
    else:
        starts = range(0, len(content) - PAGE + 1, PAGE)
    for start in starts:
        yield from _decrypted(content[start : start + PAGE], key)


def _decrypted(page: bytes, key: StoreKey) -> Iterator[bytes]:
    iv = page[-_RESERVED : -_RESERVED + _IV]
    # The first page of a file, and copies of it in a log, begin with the salt.
    for begin in (0, _SALT):
        decryptor = Cipher(algorithms.AES(bytes.fromhex(key.digits)), modes.CBC(iv)).decryptor()
        yield decryptor.update(page[begin:-_RESERVED])
