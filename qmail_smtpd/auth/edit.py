"""Change one user's entry in the text of a users file. All other lines stay the same byte for byte. Pure."""

from qmail_smtpd.auth.users import NO_ENTRY


def is_name(user: bytes) -> bool:
    """Whether this can be the name of an entry."""
    return user[:1] not in NO_ENTRY and not any(byte < 32 or byte in b"\x7f:" for byte in user)


def with_secret(content: bytes, user: bytes, stored: bytes) -> bytes:
    """Set the secret in the user's first entry, or add an entry. Remove further entries, which have no effect."""
    lines = content.split(b"\n")
    numbers = entry_numbers(lines, user)
    if not numbers:
        separator = b"\n" if content and not content.endswith(b"\n") else b""
        return content + separator + user + b":" + stored + b"\n"
    line = lines[numbers[0]]
    end = b"\r" if line.endswith(b"\r") else b""
    fields = line.removesuffix(b"\r").split(b":", 2)
    lines[numbers[0]] = b":".join([user, stored, *fields[2:]]) + end
    return b"\n".join(line for number, line in enumerate(lines) if number not in numbers[1:])


def without_user(content: bytes, user: bytes) -> bytes | None:
    """Remove all entries of the user. Return None if there are none."""
    lines = content.split(b"\n")
    numbers = entry_numbers(lines, user)
    if not numbers:
        return None
    return b"\n".join(line for number, line in enumerate(lines) if number not in numbers)


def entry_numbers(lines: list[bytes], user: bytes) -> list[int]:
    """Return the indexes of the user's entries."""
    return [number for number, line in enumerate(lines) if line.removesuffix(b"\r").partition(b":")[0] == user]
