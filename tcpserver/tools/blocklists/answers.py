"""A question to a name server and its answer, as bytes. Pure, except for the random number of a question.

Most answers are that there is no such name, which is in four bits of the header. Only the records of other answers are
taken apart, by dnspython.
"""

from os import urandom

TYPE_A, TYPE_TXT = 1, 16  # RFC 1035, 3.2.2
CLASS_IN = 1
RECURSION_DESIRED = b"\x01\x00"
ONE_QUESTION = b"\x00\x01\x00\x00\x00\x00\x00\x00"
HEADER = 12
IS_ANSWER, IS_TRUNCATED, CODE = 0x80, 0x02, 0x0F
NO_ERROR, NO_SUCH_NAME = 0, 3


class Answer:
    """A server's answer, not truncated: whether it is a failure, whether the name exists, and the records' data.

    Raises OSError if dnspython cannot be loaded.
    """

    __slots__ = ("exists", "is_failure", "records")

    def __init__(self, data: bytes, kind: int) -> None:
        code = data[3] & CODE
        self.exists = code == NO_ERROR
        self.is_failure = code not in (NO_ERROR, NO_SUCH_NAME)
        self.records: list[bytes] = []
        if self.exists:
            self.take_apart(data, kind)

    def take_apart(self, data: bytes, kind: int) -> None:
        """Collect the records of the wanted kind: addresses of four bytes, texts of any length."""
        import dns.exception
        import dns.message

        try:
            message = dns.message.from_wire(data)
        except dns.exception.DNSException:
            self.is_failure = True
            return
        for found in message.answer:
            if found.rdtype == kind and found.rdclass == CLASS_IN:
                self.records += [bytes_of(record.to_wire() or b"", kind) for record in found]


def bytes_of(wire: bytes, kind: int) -> bytes:
    """A record's data: an address, or the strings of a text one after the other (dns_txt.c)."""
    if kind == TYPE_A:
        return wire
    text, at = b"", 0
    while at < len(wire):
        text += wire[at + 1 : at + 1 + wire[at]]
        at += 1 + wire[at]
    return text


def question(name: str, kind: int) -> bytes:
    """A question with a random number, and the section that its answer repeats from byte 12 on."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return urandom(2) + RECURSION_DESIRED + ONE_QUESTION + labels + b"\0" + bytes([0, kind, 0, CLASS_IN])


def is_answer(data: bytes, asked: bytes) -> bool:
    """Whether `data` answers this question: the same number, name, kind and class."""
    return (
        len(data) >= len(asked)
        and data[:2] == asked[:2]
        and bool(data[2] & IS_ANSWER)
        and data[4:6] == asked[4:6]
        and data[HEADER : len(asked)].lower() == asked[HEADER:]
    )


def is_truncated(data: bytes) -> bool:
    """Whether the answer was too long for its packet."""
    return bool(data[2] & IS_TRUNCATED)


def warm_up() -> None:
    """Load what the records of answers need, so that the processes of a server share it. Raises ImportError."""
    name = "2.0.0.127.example"
    for kind, data in ((TYPE_A, b"\x7f\0\0\2"), (TYPE_TXT, b"\1x")):
        asked = question(name, kind)
        record = b"\xc0\x0c" + bytes([0, kind, 0, CLASS_IN]) + b"\0\0\0\0" + bytes([0, len(data)]) + data
        Answer(asked[:2] + b"\x85\x80\0\1\0\1\0\0\0\0" + asked[HEADER:] + record, kind)
