"""What the control files and the environment say to one session. Read by main, only looked at by the pure rooms."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.offer import Offer


class Settings:
    """Set once, at the start. The defaults are those of a home without control files."""

    greeting = b""  # follows 220, 250 and 221
    localiphost: bytes | None = None  # the name for this host's address literals
    rcpthosts: frozenset[bytes] | None = None  # lower-cased, as all lists; None: no file
    badmailfrom: frozenset[bytes] = frozenset()
    badmailfrom_relay = True  # whether badmailfrom is also for clients that may relay
    relayclient: bytes | None = None  # appended to every recipient; None: may not relay
    relaystrict = False
    refuse_bare_cr = False
    databytes = 0  # a limit of 0 is none, here and in the next two
    maxrcpt = 10_000
    maxerrors = 100
    remoteip = remotehost = local = b"unknown"  # the word of qmail-smtpd.c, setup
    remoteinfo: bytes | None = None
    auth: "Offer | None" = None  # None: nobody has asked for AUTH
    maxauth = 3  # failed logins, before the session ends
    auth_in_clear = True  # whether AUTH is there without TLS, too
    starttls = False  # whether there is a certificate
