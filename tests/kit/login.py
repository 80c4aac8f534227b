"""Logins of a test client: the command, and the replies."""

from base64 import b64encode

from tests.kit.mailhome import Result

FAILED, TROUBLE = b"535 authentication failed (#5.7.1)", b"454 oops, problem with child and I can't auth (#4.3.0)"
OK = b"235 ok, go ahead (#2.0.0)"
JOE = "joe@example.com"


def b64(text: bytes | str) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def plain(user: str, password: str = "secret") -> str:
    return f"AUTH PLAIN {b64encode(f'{chr(0)}{user}{chr(0)}{password}'.encode()).decode()}\r\n"


def answers(result: Result) -> list[bytes]:
    """Return the replies between the greeting and the reply to QUIT."""
    return result.stdout.split(b"\r\n")[1:-2]
