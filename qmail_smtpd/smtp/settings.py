"""The settings of one session. setup.py reads them from control files and the environment."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.offer import Offer


class Unreadable(Exception):
    """Something that a decision depends on cannot be read. `reply` ends the session, `why` is for the log."""

    def __init__(self, reply: bytes, why: bytes) -> None:
        super().__init__(reply, why)
        self.reply = reply
        self.why = why


class Settings:
    """Set at the start. The session changes `relayclient`, `remoteinfo` and `auth` (login, STARTTLS, EHLO).

    The defaults are those of a home without control files.
    """

    greeting = b""  # follows 220, 250 and 221
    localiphost: bytes | None = None  # replaces this host's address literals
    rcpthosts: frozenset[bytes] | None = None  # lower-cased, like all lists; None: no file
    badmailfrom: frozenset[bytes] = frozenset()
    badmailfrom_relay = True  # whether badmailfrom also applies to clients that may relay
    relayclient: bytes | None = None  # appended to every recipient; None: may not relay
    relaystrict = False
    recipients_are_checked = False  # whether the backend has to be asked which recipients exist
    brtlimit = 0  # unknown recipients after which the session ends at the next RCPT; 0: no limit
    relay_limited = False  # whether recipients outside rcpthosts are counted (control/relaylimits)
    refuse_bare_cr = False
    databytes = 0  # 0: no limit, also for the next two
    maxrcpt = 10_000
    maxerrors = 100
    remoteip = remotehost = local = b"unknown"  # the word of qmail-smtpd.c, setup
    remoteinfo: bytes | None = None
    auth: "Offer | None" = None  # None: AUTH is not configured
    logins_limited = False  # whether failed logins of an address are counted over sessions (control/authfaillimit)
    maxauth = 3  # failed logins before the session ends
    auth_in_clear = True  # whether AUTH is also available without TLS
    chunking = False  # whether BDAT is offered
    smtputf8 = False  # whether SMTPUTF8 is offered
    limits = False  # whether EHLO names the limits (RFC 9422)
    greet_delay = 0  # seconds before the greeting, in which the client must be silent
    policy_services = False  # whether policy services are asked about recipients
    plugins: frozenset[bytes] = frozenset()  # the sections of smtpplugins that have any
    starttls = False  # whether there is a certificate
    xclient: tuple[bytes, ...] = ()  # the attributes that this client may send with XCLIENT; none: it may not

    def copy(self) -> "Settings":
        """Return a copy for a session that may change it."""
        other = Settings()
        other.__dict__.update(self.__dict__)
        return other
