"""The text of a users file with one user's entry changed; all other lines stay byte for byte. Pure."""

from qmail_smtpd.auth.users import NO_ENTRY


def is_name(user: bytes) -> bool:
    """Can it stand in the file, and be found there?"""
    return user[:1] not in NO_ENTRY and not any(byte < 32 or byte in b"\x7f:" for byte in user)


def with_secret(content: bytes, user: bytes, stored: bytes) -> bytes:
    """The user's first entry gets the secret and keeps its other fields. Later ones go: none counts."""
    lines = content.split(b"\n")
    places = places_of(lines, user)
    if not places:
        separator = b"\n" if content and not content.endswith(b"\n") else b""
        return content + separator + user + b":" + stored + b"\n"
    line = lines[places[0]]
    end = b"\r" if line.endswith(b"\r") else b""
    fields = line.removesuffix(b"\r").split(b":", 2)
    lines[places[0]] = b":".join([user, stored, *fields[2:]]) + end
    return b"\n".join(line for number, line in enumerate(lines) if number not in places[1:])


def without(content: bytes, user: bytes) -> bytes | None:
    """All entries of the user are gone. None where there are none."""
    lines = content.split(b"\n")
    places = places_of(lines, user)
    if not places:
        return None
    return b"\n".join(line for number, line in enumerate(lines) if number not in places)


def places_of(lines: list[bytes], user: bytes) -> list[int]:
    """Where the user's entries are."""
    return [number for number, line in enumerate(lines) if line.removesuffix(b"\r").partition(b":")[0] == user]
