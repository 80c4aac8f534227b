"""One login that Dovecot decides: its offer, the steps of the SASL exchange, and what its answer means."""

from binascii import Error, a2b_base64, b2a_base64
from time import monotonic

from qmail_smtpd.auth import dovecot
from qmail_smtpd.auth.dovecot import Trouble
from qmail_smtpd.auth.errors import WRONG_PASSWORD
from qmail_smtpd.smtp import replies, sasl
from qmail_smtpd.smtp.offer import is_mechanism_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    Environ = dict[bytes, bytes]

TIME_LIMIT = 30.0  # seconds for one step, as for a checker: Dovecot waits for LDAP, SQL and PAM, and after a failure
LONGEST_USER = 1024  # bytes
NEVER = (b"ANONYMOUS", b"EXTERNAL")  # logins without a password, and by client certificates, which are not requested
IN_CLEAR = (b"PLAIN", b"LOGIN", b"OAUTHBEARER", b"XOAUTH2")
# RFC 5802 section 6: needs data of the TLS channel. Under TLS 1.3 that is RFC 9266's tls-exporter, which Python's ssl
# does not give; and only Dovecot 2.4's protocol 1.3 has a field for it.
BINDING = b"-PLUS"
# Fields of Dovecot's OK that forbid the login here: `nologin`; or `proxy`, with which the password may be unchecked.
NOT_LOGGED_IN = (b"nologin", b"proxy", b"proxy_maybe")
CODES = {  # of Dovecot's FAIL (older versions give them without `code=`) -> the word for the log
    b"temp_fail": b"temp",
    b"temp": b"temp",
    b"user_disabled": b"user_disabled",
    b"pass_expired": b"pass_expired",
    b"authz_fail": sasl.OTHER_AUTHZID,
    b"authz": sasl.OTHER_AUTHZID,
}
PARAMETERS = (  # of AUTH -> the variable of the environment
    (b"lip", b"TCPLOCALIP"),
    (b"rip", b"TCPREMOTEIP"),
    (b"lport", b"TCPLOCALPORT"),
    (b"rport", b"TCPREMOTEPORT"),
)


class Exchange:
    """The server's side of one login: smtp/sasl.py's PassedOn.

    `begin` and `step` take the client's message and return Dovecot's challenge, None when `user` has logged in. They
    raise sasl.LoginRefused.
    """

    __slots__ = ("connection", "deadline", "mechanism", "path", "user", "words")

    def __init__(self, path: bytes, mechanism: bytes, words: list[bytes], deadline: float | None) -> None:
        self.path = path
        self.mechanism = mechanism
        self.words = words
        self.deadline = deadline  # the session's
        self.connection: dovecot.Connection | None = None
        self.user = b""

    def begin(self, initial: bytes | None) -> bytes | None:
        """Send the login's first message. An empty one counts as none: Dovecot asks for it."""
        words = [self.mechanism, *self.words, *([b"resp=" + encode(initial)] if initial else [])]
        try:
            try:
                return self.result(self.request(words))
            except Trouble as trouble:
                if not trouble.gone:
                    raise
                dovecot.drop()  # Dovecot has been restarted since the last login: nothing has been answered yet
                return self.result(self.request(words))
        except Trouble as trouble:
            raise self.failed(trouble) from trouble

    def request(self, words: list[bytes]) -> list[bytes]:
        """Begin the login on the process's connection."""
        self.connection = dovecot.connection(self.path, self.deadline)
        return self.connection.request(words, self.latest())

    def step(self, response: bytes) -> bytes | None:
        """Send the client's response."""
        assert self.connection is not None
        try:
            return self.result(self.connection.proceed(encode(response), self.latest()))
        except Trouble as trouble:
            raise self.failed(trouble) from trouble

    def abandon(self) -> None:
        """End a login that the client does not continue."""
        if self.connection is not None and self.connection in dovecot.kept:
            try:
                self.connection.cancel(self.latest())
            except Trouble:
                dovecot.drop()

    def latest(self) -> float:
        """Return when a step must have ended, on the monotonic clock."""
        latest = monotonic() + TIME_LIMIT
        return latest if self.deadline is None else min(latest, self.deadline)

    def result(self, answer: list[bytes]) -> bytes | None:
        """Return the challenge, or None after a login. Raises sasl.LoginRefused and Trouble."""
        command, *fields = answer
        if command == b"CONT":
            try:
                return a2b_base64(fields[0] if fields else b"", strict_mode=True)
            except Error:
                dovecot.refuse_nonsense()
        names = {name: value for name, _, value in (field.partition(b"=") for field in fields)}
        user = names.get(b"user", b"")
        if command == b"FAIL":
            raise sasl.LoginRefused(*refusal(names), user[:LONGEST_USER])
        if not user or len(user) > LONGEST_USER or b"\0" in user:
            dovecot.refuse_nonsense()
        for name in NOT_LOGGED_IN:
            if name in names:
                raise sasl.LoginRefused(replies.AUTH_FAILED, name, user)
        self.user = user
        return None

    def failed(self, trouble: Trouble) -> sasl.LoginRefused:
        """Give up the connection, so that no later login gets this one's answer. Return the exception to raise."""
        dovecot.drop()
        return sasl.LoginRefused(replies.AUTH_NOT_CHECKED, trouble.why, b"")


def refusal(names: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return the reply and the word for the log, for the fields of Dovecot's FAIL."""
    reasons = [CODES[name] for name in (names.get(b"code", b""), *names) if name in CODES]
    reason = reasons[0] if reasons else WRONG_PASSWORD
    return replies.AUTH_NOT_CHECKED if reason == b"temp" else replies.AUTH_FAILED, reason


def offered(path: bytes, deadline: float | None, in_clear: bool = True) -> tuple[bytes, ...]:
    """Return the mechanisms that Dovecot offers and that are possible here. Raises Trouble.

    `in_clear`: also those that send a password or a token which others could use.
    """
    try:
        found = dovecot.connection(path, deadline).mechanisms
    except Trouble:
        dovecot.drop()
        raise
    return tuple(
        name
        for name, parameters in found.items()
        if name not in NEVER and not name.endswith(BINDING) and is_mechanism_name(name) and b"private" not in parameters
        if in_clear or (name not in IN_CLEAR and b"plaintext" not in parameters)
    )


def parameters(service: bytes, environ: "Environ", name: bytes = b"") -> list[bytes]:
    """Return the words of AUTH after the mechanism. `name`: what the client has asked for in its TLS handshake.

    `nologin` says that no mail process of Dovecot's will take up the login.
    """
    words = [b"service=" + service, b"nologin"]
    if b"TLS_PROTOCOL" in environ:
        words.append(b"secured")
        words += [b"local_name=" + name] if name else []
    return words + [field + b"=" + environ[variable] for field, variable in PARAMETERS if environ.get(variable)]


def encode(message: bytes) -> bytes:
    """Encode a message of the client."""
    return b2a_base64(message, newline=False)
