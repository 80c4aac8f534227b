"""Read the settings of one session from control files and environment, as qmail-smtpd.c's setup does, plus our own.

Mistakes that are not errors are returned as a list of warnings.
"""

from qmail_smtpd import control
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import exceeds
from qmail_smtpd.smtp.settings import Settings, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.auth.authenticator import Authenticator

TIMEOUT = 1200  # qmail-smtpd.c: seconds for one read or write
INT_MAX = 0x7FFFFFFF  # a larger value is negative in C's `int timeout`. A negative one counts as 1, and so does 0

# Text that no domain, or no sender, contains: an entry with it matches nothing.
NEVER_IN_DOMAINS = {
    b"\r": b"a CR at the end",
    b"#": b"a comment after an entry",
    b"*": b"a *",
    b"@": b"an @",
    b" ": b"a blank",
    b"\t": b"a tab",
}
NEVER_IN_SENDERS = {b"\r": b"a CR at the end", b" #": b"a comment after an entry", b"\t": b"a tab"}


class Reader:
    """Reads single control files, and collects the warnings about them."""

    def __init__(self) -> None:
        self.warnings: list[bytes] = []

    def read_line(self, name: bytes) -> bytes | None:
        """Return the first line of a control file, None if there is no file. Warn about a CR."""
        line = control.read_line(name)
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
        if exceeds(digits.lstrip(b"0"), control.UINT_MAX):
            self.warn(name, b"does not fit into 32 bits: using %d" % number)
        return number

    def has_word(self, name: bytes, word: bytes) -> bool:
        """Whether a control file contains this word. Warn about any other text."""
        line = control.read_line(name)
        if line not in (None, word):
            self.warn(name, b"must contain " + word + b": ignored")
        return line == word

    def check_entries(self, name: bytes, entries: frozenset[bytes] | None, never: dict[bytes, bytes]) -> None:
        """Warn once, with all reasons, about a list with entries that match nothing."""
        text = b"\n".join(entries or ())
        reasons = [reason for mark, reason in never.items() if mark in text]
        if reasons:
            self.warn(name, b"has entries that match nothing: " + b", ".join(reasons))

    def warn(self, name: bytes, text: bytes) -> None:
        """Add a warning about a control file."""
        self.warnings.append(b"control/" + name + b" " + text)


class ControlFiles(Reader):
    """What the control files say, without the environment: the same for one client after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()
        self.read_greeting()
        timeout = self.read_number(b"timeoutsmtpd", TIMEOUT)
        self.timeout = timeout if 0 < timeout <= INT_MAX else 1
        self.read_lists()
        self.settings.databytes = self.read_number(b"databytes", 0)
        self.read_limits()
        self.settings.starttls = control.exists(b"servercert.pem")
        self.has_morercpthosts = self.settings.rcpthosts is not None and control.exists(b"morercpthosts.cdb")

    def read_greeting(self) -> None:
        """Read me, smtpgreeting and localiphost. One of the first two must exist."""
        me = self.read_line(b"me")
        greeting = self.read_line(b"smtpgreeting")
        greeting = me if greeting is None else greeting
        if greeting is None:
            raise Unreadable(replies.CONTROLS_UNREADABLE, b"control/me is missing")
        localiphost = self.read_line(b"localiphost")
        localiphost = me if localiphost is None else localiphost
        self.settings.greeting = greeting
        if localiphost is not None:  # a NUL would end the address in the envelope, and begin another field
            self.settings.localiphost = localiphost.partition(b"\0")[0]

    def read_lists(self) -> None:
        """Read rcpthosts and badmailfrom."""
        settings = self.settings
        settings.rcpthosts = control.read_list(b"rcpthosts")
        self.check_entries(b"rcpthosts", settings.rcpthosts, NEVER_IN_DOMAINS)
        settings.badmailfrom = control.read_list(b"badmailfrom") or frozenset()
        self.check_entries(b"badmailfrom", settings.badmailfrom, NEVER_IN_SENDERS)

    def read_limits(self) -> None:
        """Read the limits and switches that the original does not have."""
        settings = self.settings
        settings.maxrcpt = self.read_number(b"maxrcpt", settings.maxrcpt)
        settings.maxerrors = self.read_number(b"maxerrors", settings.maxerrors)
        self.session_seconds = self.read_number(b"timeoutsession", 0)
        settings.refuse_bare_cr = self.has_word(b"barecr", b"refuse")
        settings.badmailfrom_relay = not self.has_word(b"badmailfromrelay", b"skip")
        settings.relaystrict = control.read(b"relaystrict") is not None
        if settings.rcpthosts is None:
            effect = b"only mail for postmaster is accepted" if settings.relaystrict else b"open relay"
            self.warn(b"rcpthosts", b"is missing: " + effect)


class Setup(Reader):
    """Everything that a session and its backend need at the start. Raises Unreadable."""

    def __init__(self, environ: dict[bytes, bytes], arguments: list[bytes]) -> None:
        super().__init__()
        files = control.cached("settings", ControlFiles)
        self.warnings += files.warnings
        self.settings = files.settings.copy()
        self.timeout, self.session_seconds = files.timeout, files.session_seconds
        self.morercpthosts = control.MoreRcpthosts(
            control.open_control(b"morercpthosts.cdb") if files.has_morercpthosts else -1
        )
        self.read_environment(environ)
        self.authenticator: Authenticator | None = None
        if arguments or b"SMTPAUTHFILE" in environ or environ.get(b"SMTPAUTH", b"-") != b"-":
            self.read_auth(environ, arguments)
        self.read_tls(environ)

    def read_environment(self, environ: dict[bytes, bytes]) -> None:
        """Read the variables about the client. A variable that is set but empty differs from an unset one."""
        settings = self.settings
        if b"DATABYTES" in environ:
            digits = control.leading_digits(environ[b"DATABYTES"])
            settings.databytes = control.unsigned(digits)
            if not digits:
                self.warnings.append(b"DATABYTES does not begin with a digit: no limit")
        settings.remoteip = environ.get(b"TCPREMOTEIP", settings.remoteip)
        settings.local = environ.get(b"TCPLOCALHOST", environ.get(b"TCPLOCALIP", settings.local))
        settings.remotehost = environ.get(b"TCPREMOTEHOST", settings.remotehost)
        settings.remoteinfo = environ.get(b"TCPREMOTEINFO")
        settings.relayclient = environ.get(b"RELAYCLIENT")

    def read_auth(self, environ: dict[bytes, bytes], arguments: list[bytes]) -> None:
        """Configure SMTP AUTH."""
        from qmail_smtpd.auth.authenticator import configure

        self.settings.maxauth = self.read_number(b"maxauth", self.settings.maxauth)
        self.settings.auth, self.authenticator = configure(arguments, environ, self.warnings)

    def read_tls(self, environ: dict[bytes, bytes]) -> None:
        """Find out whether AUTH is allowed without TLS."""
        settings = self.settings
        if not settings.auth or not settings.auth.mechanisms or environ.get(b"SMTPS"):
            return
        explicit = control.read(b"authcleartext") is not None
        forbidden = control.exists(b"authtls")
        settings.auth_in_clear = not forbidden and (explicit or not (settings.starttls or b"SMTPAUTHFILE" in environ))
        if settings.auth_in_clear and not explicit:
            self.warnings.append(b"AUTH is offered without TLS: there is no control/servercert.pem")
        elif not settings.auth_in_clear and not settings.starttls:
            self.warnings.append(b"AUTH is not offered: there is no control/servercert.pem")
