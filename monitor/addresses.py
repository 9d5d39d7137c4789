"""Which addresses are this machine's alone."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a server at this address or name can be reached from this machine only; brackets around IPv6 may be there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
