"""Postfix's policy delegation protocol (SMTPD_POLICY_README): encode a question, decode the answer. Pure."""

LONGEST_VALUE = 1024  # bytes of an attribute's value: above the longest address, 899
LONGEST_ANSWER = 8192  # bytes
END = b"\n\n"
ACTION = b"action"
# A line end would begin another attribute. Services decode text, and some end at a byte that is not ASCII.
PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))


class Failure(Exception):
    """A service has given no answer that can be used. `why`: in one word, for the log."""

    def __init__(self, why: bytes) -> None:
        super().__init__(why)
        self.why = why


def encode(attributes: dict[bytes, bytes]) -> bytes:
    """Return the question with these attributes."""
    lines = [name + b"=" + value[:LONGEST_VALUE].translate(PRINTABLE) for name, value in attributes.items()]
    return b"\n".join(lines) + END


def decode(answer: bytes) -> bytes:
    """Return the action of a whole answer, which ends with an empty line. Raises Failure."""
    actions = []
    for line in answer.removesuffix(END).split(b"\n"):
        name, equals, value = line.partition(b"=")
        if not name or not equals:
            raise Failure(b"malformed")
        if name == ACTION:
            actions.append(value.strip(b" \t"))
    if len(actions) != 1 or not actions[0] or b"\0" in actions[0] or b"\r" in actions[0]:
        raise Failure(b"malformed")
    return actions[0]
