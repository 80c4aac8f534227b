"""What a service's action means for a recipient, and what those of several services mean together. Pure.

The actions are those of Postfix's access(5). None of them can accept a recipient: they refuse it, or leave it as it is.
"""

from qmail_smtpd.log import escaped
from qmail_smtpd.services.protocol import PRINTABLE, Failure
from qmail_smtpd.smtp.ruling import Ruling

DUNNO = b"DUNNO"
FINAL = (b"OK", b"PERMIT")  # no more services are asked
NOTES = (b"WARN", b"INFO")
UNSUPPORTED = (b"HOLD", b"DISCARD", b"FILTER", b"REDIRECT", b"BCC", b"DELAY")
REJECT, DEFER, DEFER_IF_PERMIT, DEFER_IF_REJECT = b"554", b"450", b"DEFER_IF_PERMIT", b"DEFER_IF_REJECT"
CODES = {b"REJECT": REJECT, b"DEFER": DEFER}  # Postfix's access_map_reject_code, access_map_defer_code
ENDING = (b"421", b"521")  # with these Postfix ends the session
REFUSED, LATER = b"sorry, this recipient is refused (#5.7.1)", b"sorry, please try again later (#4.7.1)"
LONGEST_TEXT = 400  # bytes: RFC 5321 section 4.5.3.1.5 has 512 for a reply line
LONGEST_HEADER = 998  # bytes: RFC 5322 section 2.1.1
NAME_BYTES = bytes(byte for byte in range(0x21, 0x7F) if byte != ord(":"))  # RFC 5322 section 2.2


warned: set[tuple[bytes, bytes]] = set()  # services and their unsupported actions


class Verdict:
    """The actions for one recipient so far, in the order of the services."""

    __slots__ = ("if_permit", "if_reject", "ruling")

    def __init__(self) -> None:
        self.ruling = Ruling()
        self.if_permit: tuple[bytes, bytes] | None = None  # the service and the reply of a DEFER_IF_PERMIT
        self.if_reject: tuple[bytes, bytes] | None = None

    def add(self, service: bytes, action: bytes) -> bool:
        """Add a service's action. Return whether the next service is to be asked. Raises Failure."""
        word, text = split(action)
        if word in FINAL:
            return False
        if word == DEFER_IF_PERMIT:
            self.if_permit = self.if_permit or (service, reply(DEFER, text))
        elif word == DEFER_IF_REJECT:
            self.if_reject = self.if_reject or (service, reply(DEFER, text))
        elif word == b"PREPEND":
            self.ruling.headers.append(header(text))
        elif word in NOTES:
            self.ruling.notes.append({b"service": service, b"text": text})
        elif word in UNSUPPORTED:
            self.warn_once(service, word)
        elif word != DUNNO:
            self.refuse(service, CODES.get(word) or code(word), text)
            return False
        return True

    def refuse(self, service: bytes, code: bytes, text: bytes) -> None:
        """Refuse the recipient, or defer it if a service has asked to defer what would be refused."""
        if code.startswith(b"5") and self.if_reject:
            self.ruling.refuse(*self.if_reject)
        else:
            self.ruling.refuse(service, reply(code, text), code in ENDING)

    def warn_once(self, service: bytes, word: bytes) -> None:
        """Warn of an action that has no effect, once in a process."""
        if (service, word) not in warned:
            warned.add((service, word))
            self.warn(service, word + b" is not supported: DUNNO")

    def warn(self, service: bytes, text: bytes) -> None:
        """Add a warning about a service."""
        self.ruling.warnings.append(b"policy service " + escaped(service) + b": " + text)

    def finish(self) -> Ruling:
        """Return the ruling of all services."""
        if self.ruling.reply is None and self.if_permit:
            self.ruling.refuse(*self.if_permit)
        return self.ruling


def split(action: bytes) -> tuple[bytes, bytes]:
    """Return the word in upper case, and the text after it."""
    word, _, text = action.replace(b"\t", b" ").partition(b" ")
    return word.upper(), text.strip(b" ")


def code(word: bytes) -> bytes:
    """Return the word if it is the code of a reply that refuses. Raises Failure for an unknown action."""
    if len(word) == 3 and word.isdigit() and word[:1] in (b"4", b"5"):
        return word
    raise Failure(b"unknown_action")


def reply(code: bytes, text: bytes) -> bytes:
    """Return one line of a reply with this text, which may begin with an enhanced status code."""
    if not text:
        return code + b" " + (REFUSED if code.startswith(b"5") else LATER)
    line = code + b" " + text[:LONGEST_TEXT].translate(PRINTABLE)
    return line if has_status(text) else line + b" (#%c.7.1)" % code[0]


def has_status(text: bytes) -> bool:
    """Whether the text begins with an enhanced status code (RFC 3463): `5.7.1`."""
    numbers = text.partition(b" ")[0].split(b".")
    return len(numbers) == 3 and all(number.isdigit() for number in numbers)


def header(text: bytes) -> bytes:
    """Return a header line for PREPEND, without its line end. Raises Failure for a text that is none."""
    name, colon, _ = text.partition(b":")
    if not name or not colon or name.translate(None, NAME_BYTES) or len(text) > LONGEST_HEADER:
        raise Failure(b"bad_header")
    return text.translate(PRINTABLE)
