"""Which user of this machine is at the other end of a loopback connection, as Linux tells it.

A loopback port can be reached by every user of a machine, and a link that a browser was started with can be seen by all of them.
"""

import os
import sys
from ipaddress import IPv4Address
from pathlib import Path

_CONNECTIONS = Path("/proc/net/tcp")
_LOCAL, _STATE, _USER = 1, 3, 7
# Of a socket that was closed the kernel forgets whose it was, and says root's.
_ESTABLISHED = "01"
_ROOT = 0

Address = tuple[str, int]


def is_own(peer: Address, here: Address) -> bool:
    """Whether the connection from `peer` to `here`, both IPv4, comes from a program of this user, or of root, who may read all anyway.

    False where it cannot be found out.
    """
    wanted = [_as_listed(peer), _as_listed(here), _ESTABLISHED]
    with _CONNECTIONS.open(encoding="ascii") as listed:
        for line in listed:
            columns = line.split()
            if columns[_LOCAL : _STATE + 1] == wanted:
                return int(columns[_USER]) in (os.getuid(), _ROOT)
    return False


def _as_listed(address: Address) -> str:
    """The kernel writes an address as one number of the machine's byte order."""
    host, port = address
    return f"{int.from_bytes(IPv4Address(host).packed, sys.byteorder):08X}:{port:04X}"
