"""Ports and addresses of loopback that no other test process uses at the same time."""

import os
import socket

_held: list[socket.socket] = []


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port for one server of a test. It stays reserved until this process ends.

    A bound socket that does not listen, with SO_REUSEADDR, keeps the kernel from giving the port to another process. A
    server that sets SO_REUSEADDR, as servers do, can still listen on it. Until then clients are refused.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    _held.append(held)
    port: int = held.getsockname()[1]
    return port


def own_address(block: int) -> str:
    """Return this process's own address in block 0, 1 or 2 of 127.0.0.0/8, for a server that needs a fixed port.

    It is derived from the process id, which Linux keeps below 2**22.
    """
    pid = os.getpid()
    return f"127.{64 * (1 + block) + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"
