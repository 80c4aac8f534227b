"""Read control files, and warn about text that has no effect, or another effect than it seems to have."""

from qmail_smtpd import control
from qmail_smtpd.log import escaped
from qmail_smtpd.smtp.address import exceeds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = {b"k": 1 << 10, b"m": 1 << 20, b"g": 1 << 30}  # of databytes, of which the original reads the digits only

# Text that no domain, or no sender, contains: an entry with it matches nothing.
NEVER_IN_DOMAINS = {
    control.BYTE_ORDER_MARK: b"a byte order mark at the beginning",
    b"\r": b"a CR at the end",
    b"#": b"a comment after an entry",
    b"*": b"a *",
    b"@": b"an @",
    b" ": b"a blank",
    b"\t": b"a tab",
}
NEVER_IN_SENDERS = {
    control.BYTE_ORDER_MARK: b"a byte order mark at the beginning",
    b"\r": b"a CR at the end",
    b" #": b"a comment after an entry",
    b"*@": b"a *",
    b"\t": b"a tab",
}

# Files of well-known patches (netqmail, qregex, spamcontrol, John Simpson's combined patch) that are not read here.
UNREAD = (
    b"badhelo badhelonorelay badloadertypes badmailfromnorelay badmailpatterns badmailto badmailtonorelay badmimetypes "
    b"badrcptpatterns badrcptto badrcptto.cdb badrcpttonorelay mfcheck morebadrcptto.cdb recipients "
    b"relaymailfrom spfbehavior tarpitcount"
).split()


def unread_files(home: bytes = b".") -> list[bytes]:
    """Return a warning for each control file without the effect that an administrator may expect."""
    found = control.present((*UNREAD, b"morercpthosts", b"morercpthosts.cdb", b"servercerts"), home)
    warnings = [b"control/" + name + b" is not read" for name in found if name in UNREAD]
    if b"morercpthosts" in found and b"morercpthosts.cdb" not in found:
        warnings.append(b"control/morercpthosts is not read without morercpthosts.cdb: run qmail-newmrh")
    if b"servercerts" in found:
        from qmail_smtpd.net.names import FOLDER, ineffective

        dead = b" ".join(escaped(name) for name in ineffective(home))
        if dead:
            form = b" has names that no client asks for (a wildcard is _.example.org): "
            warnings.append(FOLDER + form + dead)
    return warnings


def number_fault(digits: bytes, text: bytes, number: int) -> bytes:
    """Return the warning about a number in a text that begins with digits, empty if the number is as written."""
    if exceeds(digits.lstrip(b"0"), control.UINT_MAX):
        return b"does not fit into 32 bits: using %d" % number
    rest = text[len(digits) :].strip(b" \t\r")
    return b"has more than digits: using %d" % number if rest else b""


def size(digits: bytes, text: bytes) -> tuple[int, bytes]:
    """Return the number of bytes that a text means, and the warning about it or b"". `digits`: how the text begins.

    `10M` means ten mebibytes, and has a warning: the original reads ten bytes, and no message is so short.
    """
    number = control.unsigned(digits)
    unit = text[len(digits) :].strip(b" \t\r").lower()
    factor = UNITS.get(unit.removesuffix(b"b").removesuffix(b"i"))
    if not digits or factor is None:
        return number, number_fault(digits, text, number)
    number = control.UINT_MAX if exceeds(digits.lstrip(b"0"), control.UINT_MAX // factor) else number * factor
    return number, b"has more than digits: using %d" % number


def domain_form(entry: bytes) -> bytes:
    """Return what was probably meant by an entry of rcpthosts that matches nothing."""
    return bare_entry(entry).rpartition(b"@")[2].lstrip(b"*")


def sender_form(entry: bytes) -> bytes:
    """Return what was probably meant by an entry of badmailfrom that matches nothing; empty if that is impossible."""
    text = bare_entry(entry).lstrip(b"*")
    form = text if b"@" in text else b"@" + text
    return b"" if form.startswith(b"@.") else form


def bare_entry(entry: bytes) -> bytes:
    """Return an entry without a byte order mark, comment, CR and blanks."""
    return entry.removeprefix(control.BYTE_ORDER_MARK).partition(b"#")[0].strip(b" \t\r")


class Reader:
    """Reads single control files, and collects the warnings about them."""

    def __init__(self) -> None:
        self.warnings: list[bytes] = []

    def read_line(self, name: bytes) -> bytes | None:
        """Return the first line of a control file, None if there is no file. Warn about a CR and a byte order mark."""
        line = control.read_line(name)
        if line is not None and line.startswith(control.BYTE_ORDER_MARK):
            self.warn(name, b"begins with a byte order mark, which is part of the text")
        if line is not None and b"\r" in line:
            self.warn(name, b"has a CR, which is part of the text")
        return line

    def read_number(self, name: bytes, default: int) -> int:
        """Return the leading number of a control file. A file without one counts as missing (control_readint)."""
        line = control.read_line(name)
        if line is None:
            return default
        digits = control.leading_digits(line)
        if not digits:
            self.warn(name, b"does not begin with a digit: ignored")
            return default
        number = control.unsigned(digits)
        fault = number_fault(digits, line, number)
        if fault:
            self.warn(name, fault)
        return number

    def read_size(self, name: bytes) -> int:
        """Return the number of bytes in a control file, 0 for none. It may have a unit."""
        line = control.read_line(name) or b""
        digits = control.leading_digits(line)
        number, fault = size(digits, line)
        if not digits:
            return self.read_number(name, 0)
        if fault:
            self.warn(name, fault)
        return number

    def has_word(self, name: bytes, word: bytes) -> bool:
        """Whether a control file contains this word. Warn about any other text."""
        line = control.read_line(name)
        if line not in (None, word):
            self.warn(name, b"must contain " + word + b": ignored")
        return line == word

    def check_domains(self, name: bytes, entries: frozenset[bytes]) -> None:
        """Warn once, with all reasons, about a list of domains with entries that match nothing."""
        text = b"\n".join(entries)
        marks = [mark for mark in NEVER_IN_DOMAINS if mark in text]
        if marks:
            dead = [entry for entry in entries if any(mark in entry for mark in marks)]
            self.warn_of_entries(name, [NEVER_IN_DOMAINS[mark] for mark in marks], dead, domain_form)

    def check_senders(self, name: bytes, entries: frozenset[bytes]) -> None:
        """Do the same for a list of senders."""
        text = b"\n".join(entries)
        marks = [mark for mark in NEVER_IN_SENDERS if mark in text]
        reasons = [NEVER_IN_SENDERS[mark] for mark in marks]
        dead = [entry for entry in entries if any(mark in entry for mark in marks)] if marks else []
        if text.count(b"@") < len(entries):
            domains = [entry for entry in entries if b"@" not in entry and b"." in entry]
            if domains:
                reasons.append(b"a domain without @")
                dead += domains
        if reasons:
            self.warn_of_entries(name, reasons, dead, sender_form)

    def warn_of_entries(
        self, name: bytes, reasons: list[bytes], dead: list[bytes], right_form: "Callable[[bytes], bytes]"
    ) -> None:
        """Warn about entries that match nothing, and name the right form of one of them."""
        forms = [(entry, right_form(entry)) for entry in sorted(dead)]
        example = next(
            (b"; write %b instead of %b" % (escaped(form), escaped(entry)) for entry, form in forms if form), b""
        )
        self.warn(name, b"has entries that match nothing: " + b", ".join(reasons) + example)

    def warn(self, name: bytes, text: bytes) -> None:
        """Add a warning about a control file."""
        self.warnings.append(b"control/" + name + b" " + text)
