"""The lines that a plugin writes, and what they do: to the outcome of the command, and to the environment.

They are those of qmail-spp.c. Where they could let a client relay, they do less: docs/plugins.md has the list.
"""

from qmail_smtpd.smtp.outcome import DROP, ERROR, REJECT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.outcome import Outcome

LONGEST_REPLY = 510  # bytes: RFC 5321 section 4.5.3.1.5, without the line end
LONGEST_HEADER = 998  # bytes: RFC 5322 section 2.1.1
LONGEST_ADDRESS = 899  # smtp/address.py, LONGEST
MOST_VARIABLES = 256  # that the plugins of one session may set or unset
ACCEPT, ENDINGS, NEXT = b"A", (ERROR, REJECT, DROP), (b"A", b"N", b"O")
FAILURE = b"451 qmail-spp failure: %b: %b (#4.3.0)"  # qmail-spp.c, err_spp
NO_REPLY = b"no reply"
LATER = (b"M", b"R", b"D")
# Who the client is, what it may do, which checks are made, and which programs are run.
PROTECTED = (b"NORELAY", b"QMAILHOME", b"QMAILQUEUE", b"RCPTCHECK", b"SMTPS", b"XCLIENTRULES", b"")
PROTECTED_PREFIXES = (b"RELAY", b"SMTPAUTH", b"TCP", b"TLS_", b"PROXYREMOTE", b"CHECKUSERS", b"SMTPD_")
PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F or byte >= 0x80 else ord("?") for byte in range(256))
NAME_BYTES = bytes(byte for byte in range(0x21, 0x7F) if byte != ord(":"))  # RFC 5322 section 2.2
VARIABLE_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

warned: set[tuple[bytes, bytes]] = set()  # (plugin, warning text) of lines without effect


class Reader:
    """The effect of the lines of one plugin after the other, for one command."""

    __slots__ = ("changed", "environ", "outcome", "variable", "warnings")

    def __init__(self, outcome: "Outcome", environ: dict[bytes, bytes], variable: bytes, changed: set[bytes]) -> None:
        self.outcome = outcome
        self.environ = environ
        self.variable = variable  # the one with the address that C changes; empty if there is none
        self.changed = changed  # the names of all variables that plugins have set or unset in this session
        self.warnings: list[bytes] = []

    def read(self, plugin: bytes, output: bytes) -> bool:
        """Do what the plugin's lines say. Return whether the next plugin is to be run."""
        lines = output.split(b"\n")
        for line in lines[:-1]:  # text after the last line end is not a line
            letter, text = line[:1], line[1:].translate(PRINTABLE)
            if letter in NEXT:
                self.outcome.is_last = letter == ACCEPT
                return False
            if letter in ENDINGS:
                self.end(plugin, letter, text)
                return False
            self.obey(plugin, letter, text)
        return True

    def end(self, plugin: bytes, letter: bytes, text: bytes) -> None:
        """End the command. The client needs a reply if the session goes on."""
        if letter == ERROR and not text:
            self.outcome.fail(FAILURE % (plugin, NO_REPLY), plugin, NO_REPLY)
        else:
            self.outcome.end(letter, text[:LONGEST_REPLY] if letter != DROP else b"", plugin)

    def obey(self, plugin: bytes, letter: bytes, text: bytes) -> None:
        """Execute a line that does not end the command. Unknown lines have no effect, as in the original."""
        if letter == b"P":
            self.outcome.printed.append(text[:LONGEST_REPLY])
        elif letter == b"L" and text[:1] in LATER and text[1:]:
            self.outcome.later.append((text[:1], text[1:][:LONGEST_REPLY]))
        elif letter == b"C" and self.variable:
            self.change_address(plugin, text)
        elif letter == b"H":
            self.add_header(plugin, text)
        elif letter == b"S":
            name, equals, value = text.partition(b"=")
            if equals and self.may_change(plugin, name):
                self.environ[name] = value
        elif letter == b"U" and b"=" not in text and self.may_change(plugin, text):
            self.environ.pop(text, None)

    def change_address(self, plugin: bytes, address: bytes) -> None:
        """Replace the sender or recipient. All checks are then made with the new one."""
        if len(address) > LONGEST_ADDRESS:
            self.warn(plugin, b"an address is too long")
            return
        self.outcome.address = self.environ[self.variable] = address

    def add_header(self, plugin: bytes, text: bytes) -> None:
        """Add a line to the header of the message, or a continuation of the plugin's line before it."""
        name, colon, _ = text.partition(b":")
        is_continuation = text[:1] == b" " and bool(text.strip(b" ")) and bool(self.outcome.headers)
        is_field = bool(name and colon) and not name.translate(None, NAME_BYTES)
        if len(text) > LONGEST_HEADER or not (is_field or is_continuation):
            self.warn(plugin, b"a header is not valid")
            return
        self.outcome.headers.append(text)

    def may_change(self, plugin: bytes, name: bytes) -> bool:
        """Whether plugins may set and unset the variable."""
        if name.translate(None, VARIABLE_BYTES):
            self.warn(plugin, b"the name of a variable is not valid")
            return False
        if name in PROTECTED or name.startswith(PROTECTED_PREFIXES):
            self.warn(plugin, b"it may not change " + name)
            return False
        self.changed.add(name)
        if len(self.changed) > MOST_VARIABLES:
            self.changed.discard(name)
            self.warn(plugin, b"too many variables")
            return False
        return True

    def warn(self, plugin: bytes, text: bytes) -> None:
        """Warn of a line without effect, once in a process."""
        if (plugin, text) not in warned and len(warned) < MOST_VARIABLES:
            warned.add((plugin, text))
            self.warnings.append(b"plugin " + plugin + b": " + text + b": ignored")
