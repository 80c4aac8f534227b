"""Control files and environment -> the settings of one session, as qmail-smtpd.c's setup reads them, and our own.

What is wrong with them, but no error, comes back as a list of warnings.
"""

from qmail_smtpd import control
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.address import exceeds
from qmail_smtpd.smtp.settings import Settings, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.auth.authenticator import Authenticator

TIMEOUT = 1200  # qmail-smtpd.c: seconds for one read or write
INT_MAX = 0x7FFFFFFF  # a larger `int timeout` is a negative one, which counts as 1, as 0 does

# Bytes in an entry that no domain, and no sender, has: such an entry matches nothing.
NEVER_IN_DOMAINS = {
    b"\r": b"a CR at the end",
    b"#": b"a comment behind an entry",
    b"*": b"a *",
    b"@": b"an @",
    b" ": b"a blank",
    b"\t": b"a tab",
}
NEVER_IN_SENDERS = {b"\r": b"a CR at the end", b" #": b"a comment behind an entry", b"\t": b"a tab"}


class Setup:
    """Everything that a session and its world have to know at the start. Raises Unreadable."""

    def __init__(self, environ: dict[bytes, bytes], arguments: list[bytes]) -> None:
        self.warnings: list[bytes] = []
        self.settings = Settings()
        self.read_greeting()
        timeout = self.number(b"timeoutsmtpd", TIMEOUT)
        self.timeout = timeout if 0 < timeout <= INT_MAX else 1
        self.read_lists()
        self.settings.databytes = self.number(b"databytes", 0)
        self.read_limits()
        self.read_environment(environ)
        self.authenticator: Authenticator | None = None
        if arguments or b"SMTPAUTHFILE" in environ or environ.get(b"SMTPAUTH", b"-") != b"-":
            self.read_auth(environ, arguments)
        self.read_tls(environ)

    def read_greeting(self) -> None:
        """me, smtpgreeting, localiphost. One of the first two has to be there."""
        me = self.line(b"me")
        greeting = self.line(b"smtpgreeting")
        greeting = me if greeting is None else greeting
        if greeting is None:
            raise Unreadable(replies.CONTROLS_UNREADABLE, b"control/me is missing")
        localiphost = self.line(b"localiphost")
        localiphost = me if localiphost is None else localiphost
        self.settings.greeting = greeting
        if localiphost is not None:  # a NUL ends an address, and in an envelope it would begin something else
            self.settings.localiphost = localiphost.partition(b"\0")[0]

    def read_lists(self) -> None:
        """rcpthosts, with its cdb only where it exists itself, and badmailfrom."""
        settings = self.settings
        settings.rcpthosts = control.read_list(b"rcpthosts")
        self.lint(b"rcpthosts", settings.rcpthosts, NEVER_IN_DOMAINS)
        self.morercpthosts = control.MoreRcpthosts(
            -1 if settings.rcpthosts is None else control.open_control(b"morercpthosts.cdb")
        )
        settings.badmailfrom = control.read_list(b"badmailfrom") or frozenset()
        self.lint(b"badmailfrom", settings.badmailfrom, NEVER_IN_SENDERS)

    def read_limits(self) -> None:
        """What the original does not have."""
        settings = self.settings
        settings.maxrcpt = self.number(b"maxrcpt", settings.maxrcpt)
        settings.maxerrors = self.number(b"maxerrors", settings.maxerrors)
        self.session_seconds = self.number(b"timeoutsession", 0)
        settings.refuse_bare_cr = self.word(b"barecr", b"refuse")
        settings.badmailfrom_relay = not self.word(b"badmailfromrelay", b"skip")
        settings.relaystrict = control.read(b"relaystrict") is not None
        if settings.rcpthosts is None:
            closed = b"no mail is taken but for postmaster"
            self.warn(b"rcpthosts", b"is missing: " + (closed if settings.relaystrict else b"open relay"))

    def read_environment(self, environ: dict[bytes, bytes]) -> None:
        """What the server tells about the client. Set but empty is not the same as unset."""
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
        """SMTP AUTH, for those who ask for it."""
        from qmail_smtpd.auth.authenticator import configure

        self.settings.maxauth = self.number(b"maxauth", self.settings.maxauth)
        self.settings.auth, self.authenticator = configure(arguments, environ, self.warnings)

    def read_tls(self, environ: dict[bytes, bytes]) -> None:
        """Whether there is a certificate, and what that means for passwords."""
        settings = self.settings
        settings.starttls = control.exists(b"servercert.pem")
        if not settings.auth or not settings.auth.mechanisms or environ.get(b"SMTPS"):
            return
        explicit = control.read(b"authcleartext") is not None
        forbidden = control.exists(b"authtls")
        settings.auth_in_clear = not forbidden and (explicit or not (settings.starttls or b"SMTPAUTHFILE" in environ))
        if settings.auth_in_clear and not explicit:
            self.warnings.append(b"AUTH is offered in clear: there is no control/servercert.pem")
        elif not settings.auth_in_clear and not settings.starttls:
            self.warnings.append(b"AUTH is not offered: there is no control/servercert.pem")

    def line(self, name: bytes) -> bytes | None:
        """The first line of a control file."""
        line = control.read_line(name)
        if line is not None and b"\r" in line:
            self.warn(name, b"has a CR, which is sent or compared like any other byte")
        return line

    def number(self, name: bytes, default: int) -> int:
        """The number at the beginning of a control file; one without counts as missing (control.c, control_readint)."""
        line = control.read_line(name)
        if line is None:
            return default
        digits = control.leading_digits(line)
        if not digits:
            self.warn(name, b"does not begin with a digit: ignored")
            return default
        number = control.unsigned(digits)
        if exceeds(digits.lstrip(b"0"), control.UINT_MAX):
            self.warn(name, b"does not fit into 32 bits: it counts as %d" % number)
        return number

    def word(self, name: bytes, wanted: bytes) -> bool:
        """Whether a control file says this word."""
        line = control.read_line(name)
        if line not in (None, wanted):
            self.warn(name, b"does not say " + wanted + b": ignored")
        return line == wanted

    def lint(self, name: bytes, entries: frozenset[bytes] | None, never: dict[bytes, bytes]) -> None:
        """Name a list that has entries which match nothing, once, with the reasons."""
        everything = b"\n".join(entries or ())
        reasons = [reason for sign, reason in never.items() if sign in everything]
        if reasons:
            self.warn(name, b"has entries that match nothing: " + b", ".join(reasons))

    def warn(self, name: bytes, text: bytes) -> None:
        self.warnings.append(b"control/" + name + b" " + text)
