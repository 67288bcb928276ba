"""Which hosts are this machine. Pure."""

from __future__ import annotations

import ipaddress


def is_loopback_name(name: str) -> bool:
    """Whether a host name or address, as in a URL, means this machine and nothing else."""
    bare = name.strip().removeprefix("[").removesuffix("]").rstrip(".").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0]
