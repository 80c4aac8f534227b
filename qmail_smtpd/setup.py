"""Read the settings of one session from control files and environment, as qmail-smtpd.c's setup does, plus our own.

Mistakes that are not errors are returned as a list of warnings.
"""

import os
import sys

from qmail_smtpd import control
from qmail_smtpd.control_checks import Reader, number_fault, unread_files
from qmail_smtpd.log import escaped
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.settings import Settings, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmail_smtpd.auth.authenticator import Authenticator
    from qmail_smtpd.plugins.listing import Listing
    from qmail_smtpd.recipients.cdb import MoreRcpthosts
    from qmail_smtpd.recipients.check import Recipients
    from qmail_smtpd.recipients.listed import Lists
    from qmail_smtpd.relay.limits import Limit, RelayLimits
    from qmail_smtpd.services.listing import Services
    from qmail_smtpd.xclient.hosts import Hosts

TIMEOUT = 1200  # qmail-smtpd.c: seconds for one read or write
CONTROL = b"control/"
PLUGINS = b"control/smtpplugins"  # qmail-spp.c, spp_init
INT_MAX = 0x7FFFFFFF  # a larger value is negative in C's `int timeout`. A negative one counts as 1, and so does 0
AUTH_VARIABLES = frozenset((b"SMTPAUTH", b"SMTPAUTHFILE", b"SMTPAUTHSOCKET"))
LONGEST_GREET_DELAY = 240  # seconds: clients wait five minutes for the greeting (RFC 5321 section 4.5.3.2.1)


def arguments() -> list[bytes]:
    """Return the words of the command line after this program's name."""
    return [os.fsencode(word) for word in sys.argv[1:]]


def offers_logins(words: list[bytes], environ: "Mapping[bytes, bytes]") -> bool:
    """Whether qmail-smtpd, started with these words, may offer SMTP AUTH."""
    return asks_for_logins(words, environ) or control.exists(b"authsocket", control.home(environ))


def asks_for_logins(words: list[bytes], environ: "Mapping[bytes, bytes]") -> bool:
    """Whether arguments or environment ask for SMTP AUTH."""
    return (
        len(words) > 1
        or b"SMTPAUTHFILE" in environ
        or bool(environ.get(b"SMTPAUTHSOCKET"))
        or environ.get(b"SMTPAUTH", b"-") != b"-"
    )


class ControlFiles(Reader):
    """What the control files say, without the environment: the same for one client after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()
        self.read_greeting()
        timeout = self.read_number(b"timeoutsmtpd", TIMEOUT)
        self.timeout = timeout if 0 < timeout <= INT_MAX else 1
        self.read_lists()
        self.settings.databytes = self.read_size(b"databytes")
        self.read_limits()
        self.settings.starttls = control.exists(b"servercert.pem")
        if self.settings.starttls:
            self.has_word(b"tlstickets", b"off")  # read by net/certificate.py
        self.unread = unread_files()  # warnings
        self.xclienthosts = self.read_xclienthosts()
        self.services = self.read_services()
        self.validrcptto = self.read_validrcptto()
        self.has_plugins = control.exists(b"smtpplugins")
        self.relaylimits = self.read_relaylimits()
        self.authsocket = self.read_line(b"authsocket") or b""
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
        self.check_domains(b"rcpthosts", settings.rcpthosts or frozenset())
        settings.badmailfrom = control.read_list(b"badmailfrom") or frozenset()
        self.check_senders(b"badmailfrom", settings.badmailfrom)

    def read_limits(self) -> None:
        """Read the limits and switches that the original does not have."""
        settings = self.settings
        settings.maxrcpt = self.read_number(b"maxrcpt", settings.maxrcpt)
        settings.maxerrors = self.read_number(b"maxerrors", settings.maxerrors)
        settings.brtlimit = self.read_number(b"brtlimit", settings.brtlimit)
        self.session_seconds = self.read_number(b"timeoutsession", 0)
        settings.refuse_bare_cr = self.has_word(b"barecr", b"refuse")
        settings.badmailfrom_relay = not self.has_word(b"badmailfromrelay", b"skip")
        settings.relaystrict = control.read(b"relaystrict") is not None
        settings.chunking = control.read(b"chunking") is not None
        settings.smtputf8 = control.read(b"smtputf8") is not None
        settings.limits = control.read(b"limits") is not None
        settings.greet_delay = self.read_number(b"smtpgreetdelay", 0)
        if settings.greet_delay > LONGEST_GREET_DELAY:
            settings.greet_delay = LONGEST_GREET_DELAY
            self.warn(b"smtpgreetdelay", b"is too long: using %d" % LONGEST_GREET_DELAY)
        if settings.rcpthosts is None:
            effect = b"only mail for postmaster is accepted" if settings.relaystrict else b"open relay"
            self.warn(b"rcpthosts", b"is missing: " + effect)

    def read_validrcptto(self) -> "Lists | None":
        """Read the recipients that exist, None without such a list."""
        if not (control.exists(b"validrcptto") or control.exists(b"validrcptto.cdb")):
            return None
        from qmail_smtpd.recipients.listed import Lists

        return Lists(self.warn, self.settings.smtputf8)

    def read_services(self) -> "Services | None":
        """Read the policy services, None if there are none."""
        content = control.read(b"policyservice")
        if content is None:
            return None
        from qmail_smtpd.services.listing import Services

        services = Services(control.list_entries(content), self.has_word(b"policyfailure", b"open"))
        for service in services.faults():
            text = b"has a line that is not understood, so that no recipient is accepted: %b: %b"
            self.warn(b"policyservice", text % (escaped(service.name), service.fault.encode()))
        self.settings.policy_services = bool(services.entries)
        return services

    def read_xclienthosts(self) -> "Hosts | None":
        """Read the proxies that may give XCLIENT, None if there are none. An unreadable file lists nobody."""
        try:
            content = control.read(b"xclienthosts")
        except Unreadable as error:
            control.do_not_cache()  # the cache would not notice that the file has become readable
            self.warnings.append(error.why + b": XCLIENT is not offered")
            return None
        if content is None:
            return None
        from qmail_smtpd.xclient.hosts import Hosts

        hosts = Hosts(control.list_entries(content))
        if hosts.faults:
            line, why = hosts.faults[0]
            self.warn(b"xclienthosts", b"has lines without effect: %b: %b" % (escaped(line), why.encode()))
        return hosts

    def read_relaylimits(self) -> "RelayLimits | None":
        """Read the limits for relayed mail. Set `relay_limited` if there is such a file, whatever is in it.

        If the file cannot be used, nothing is relayed, and other mail is accepted.
        """
        try:
            content = control.read(b"relaylimits")
        except Unreadable as error:
            control.do_not_cache()  # as for xclienthosts
            self.settings.relay_limited = True
            self.warnings.append(error.why + b": no relaying")
            return None
        if content is None:
            return None
        self.settings.relay_limited = True
        from qmail_smtpd.relay.limits import RelayLimits

        try:
            return RelayLimits(content)
        except ValueError as error:
            self.warn(b"relaylimits", str(error).encode() + b": no relaying")
            return None


class Setup(Reader):
    """Everything that a session and its backend need at the start. Raises Unreadable.

    Code for rare settings is called only if they are set: the first call of a function costs a forked process 12 us.
    """

    def __init__(self, environ: dict[bytes, bytes], arguments: list[bytes]) -> None:
        super().__init__()
        files = control.cached("settings", ControlFiles)
        self.warnings += files.warnings
        self.unread = files.unread
        self.services = files.services
        self.settings = files.settings.copy()
        self.relaylimits = files.relaylimits
        self.authfaillimit: Limit | None = None
        self.plugins = self.read_plugins(environ) if files.has_plugins or b"SPPCONFFILE" in environ else {}
        self.timeout, self.session_seconds = files.timeout, files.session_seconds
        self.morercpthosts = self.open_morercpthosts() if files.has_morercpthosts else None
        self.read_environment(environ)
        if files.xclienthosts is not None and b"NORELAY" not in environ:  # with it, the address is a proxy's
            self.settings.xclient = files.xclienthosts.attributes(environ.get(b"TCPREMOTEIP", b""))
        self.recipients: Recipients | None = None
        if files.validrcptto is not None or b"RCPTCHECK" in environ:
            self.recipients = self.open_recipients(files.validrcptto, environ.get(b"RCPTCHECK"))
        self.authenticator: Authenticator | None = None
        socket = environ.get(b"SMTPAUTHSOCKET")
        if socket is None and not arguments and b"SMTPAUTHFILE" not in environ:
            socket = files.authsocket
        named = arguments or not AUTH_VARIABLES.isdisjoint(environ)
        if socket or (named and asks_for_logins([b"qmail-smtpd", *arguments], environ)):
            self.read_auth(environ, arguments, socket or b"")
        elif self.settings.brtlimit and self.settings.recipients_are_checked:
            self.read_authfaillimit()  # unknown recipients are counted with it, too
        self.read_tls(environ, bool(socket) or b"SMTPAUTHFILE" in environ)

    def read_plugins(self, environ: dict[bytes, bytes]) -> "Listing":
        """Read the plugins, as spp_init in qmail-spp.c does: none with $NOSPP. Raises Unreadable."""
        if b"NOSPP" in environ:
            return {}
        path = environ.get(b"SPPCONFFILE") or PLUGINS
        name = path.removeprefix(CONTROL)
        content = control.read(name) if path.startswith(CONTROL) and b"/" not in name else None
        if content is None:
            if path != PLUGINS:
                raise Unreadable(replies.CONTROLS_UNREADABLE, b"SPPCONFFILE is not a file control/NAME")
            return {}
        from qmail_smtpd.plugins.listing import parse

        listing = parse(control.list_entries(content))
        self.settings.plugins = frozenset(listing)
        return listing

    def read_environment(self, environ: dict[bytes, bytes]) -> None:
        """Read the variables about the client. A variable that is set but empty differs from an unset one."""
        settings = self.settings
        if b"DATABYTES" in environ:
            digits = control.leading_digits(environ[b"DATABYTES"])
            settings.databytes = control.unsigned(digits)
            fault = number_fault(digits, environ[b"DATABYTES"], settings.databytes)
            if not digits:
                fault = b"does not begin with a digit: no limit"
            if fault:
                self.warnings.append(b"DATABYTES " + fault)
        settings.remoteip = environ.get(b"TCPREMOTEIP", settings.remoteip)
        settings.local = environ.get(b"TCPLOCALHOST", environ.get(b"TCPLOCALIP", settings.local))
        settings.remotehost = environ.get(b"TCPREMOTEHOST", settings.remotehost)
        settings.remoteinfo = environ.get(b"TCPREMOTEINFO")
        if b"NORELAY" in environ:
            self.forbid_relaying(environ)
        settings.relayclient = environ.get(b"RELAYCLIENT")

    def forbid_relaying(self, environ: dict[bytes, bytes]) -> None:
        """Never let this client relay (tcpserver --proxy-from: its proxy has not named it), unless it logs in.

        Without rcpthosts the strict rules apply: they accept no foreign recipient.
        """
        environ.pop(b"RELAYCLIENT", None)  # the queue program must not see it either
        if self.settings.rcpthosts is None:
            self.settings.relaystrict = True

    def open_morercpthosts(self) -> "MoreRcpthosts":
        """Open the file. Raises Unreadable."""
        from qmail_smtpd.recipients.cdb import MoreRcpthosts

        return MoreRcpthosts(control.open_control(b"morercpthosts.cdb"))

    def open_recipients(self, lists: "Lists | None", program: bytes | None) -> "Recipients":
        """Return what decides which recipients exist."""
        self.settings.recipients_are_checked = True
        from qmail_smtpd.recipients.check import Recipients

        return Recipients(lists, program)

    def read_auth(self, environ: dict[bytes, bytes], arguments: list[bytes], socket: bytes) -> None:
        """Configure SMTP AUTH."""
        from qmail_smtpd.auth.authenticator import configure

        self.settings.maxauth = self.read_number(b"maxauth", self.settings.maxauth)
        self.read_authfaillimit()
        self.settings.auth, self.authenticator = configure(arguments, environ, self.warnings, socket)

    def read_authfaillimit(self) -> None:
        """Read how often logins of an address may fail. If the file cannot be used, nobody can log in."""
        try:
            line = self.read_line(b"authfaillimit")
        except Unreadable as error:
            control.do_not_cache()  # as for xclienthosts
            self.settings.logins_limited = True
            self.warnings.append(error.why + b": no logins")
            return
        if line is None:
            return
        self.settings.logins_limited = True
        from qmail_smtpd.relay.limits import parse_failures

        try:
            self.authfaillimit = parse_failures(line)
        except ValueError as error:
            self.warn(b"authfaillimit", str(error).encode() + b": no logins")

    def read_tls(self, environ: dict[bytes, bytes], needs_tls: bool) -> None:
        """Decide if AUTH is allowed without TLS. `needs_tls`: even without a certificate only by authcleartext."""
        settings = self.settings
        if not settings.auth or not settings.auth.is_possible() or environ.get(b"SMTPS"):
            return
        explicit = control.read(b"authcleartext") is not None
        forbidden = control.exists(b"authtls")
        settings.auth_in_clear = not forbidden and (explicit or not (settings.starttls or needs_tls))
        if settings.auth_in_clear and not explicit:
            self.warnings.append(b"AUTH is offered without TLS: there is no control/servercert.pem")
        elif not settings.auth_in_clear and not settings.starttls:
            self.warnings.append(b"AUTH is not offered: there is no control/servercert.pem")
