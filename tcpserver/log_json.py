"""The log as JSON, one object a line: --log-format json. ASCII only, whatever a client sent."""

import json
import os
import time

from tcpserver.environ import Facts
from tcpserver.log import Lines


def readable(value: bytes | None) -> str | None:
    """A client's bytes as text: one character a byte, which json.dumps escapes where it is not printable ASCII."""
    return None if value is None else value.decode("latin-1")


def line(event: str, **values: object) -> bytes:
    """One object: time (seconds since 1970), event, and what is known."""
    known = {name: value for name, value in values.items() if value is not None}
    return json.dumps({"time": round(time.time(), 6), "event": event, **known}).encode() + b"\n"


def ends(facts: Facts) -> dict[str, object]:
    """Both ends of a connection."""
    return {
        "connection": readable(facts.connection),
        "local_ip": readable(facts.local_ip),
        "local_port": facts.local_port,
        "local_host": readable(facts.local_host),
        "remote_ip": readable(facts.remote_ip),
        "remote_port": facts.remote_port,
        "remote_host": readable(facts.remote_host),
        "remote_info": readable(facts.remote_info),
        "proxy_ip": readable(facts.proxy_ip),
        "proxy_port": facts.proxy_port or None,
    }


def client(facts: Facts) -> dict[str, object]:
    """The connection's name and the client's address."""
    return {"connection": readable(facts.connection), "remote_ip": readable(facts.remote_ip)}


class JsonLines(Lines):
    """The same events as Lines, with everything that is known."""

    def status(self, children: int, limit: int) -> bytes:
        return line("status", children=children, limit=limit)

    def arrival(self, pid: int, facts: Facts) -> bytes:
        return line("pid", pid=pid, **client(facts), remote_port=facts.remote_port)

    def verdict(self, word: bytes, pid: int, facts: Facts, key: bytes | None, reason: bytes = b"") -> bytes:
        return line(word.decode(), pid=pid, **ends(facts), rule=readable(key), reason=readable(reason or None))

    def end(self, pid: int, wait_status: int, facts: Facts | None, seconds: float | None) -> bytes:
        by_signal = os.WIFSIGNALED(wait_status)
        return line(
            "end",
            pid=pid,
            status=wait_status,
            exit=None if by_signal else os.WEXITSTATUS(wait_status),
            signal=os.WTERMSIG(wait_status) if by_signal else None,
            **(client(facts) if facts else {}),
            duration=None if seconds is None else round(seconds, 6),
        )

    def dropping(self, what: bytes, why: str, pid: int, facts: Facts | None) -> bytes:
        known = ends(facts) if facts else {}
        return line("drop", pid=pid, **known, reason=f"unable to {readable(what)}: {why}")

    def warning(self, text: bytes) -> bytes:
        return line("warning", text=readable(text))

    def waiting(self, headers: int, turns: int) -> bytes:
        return line("waiting", headers=headers, turns=turns)

    def connected(self, pid: int, facts: Facts, seconds: float) -> bytes:
        return line("connected", pid=pid, **client(facts), duration=round(seconds, 6))
