"""Parse $SMTPAUTH: which mechanisms are offered, in which order, and whether a login is required. Pure."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOGIN, PLAIN, CRAM_MD5, SCRAM_SHA_256 = b"LOGIN", b"PLAIN", b"CRAM-MD5", b"SCRAM-SHA-256"
OLD_MECHANISMS = (LOGIN, CRAM_MD5, PLAIN)  # the order of qmail-smtpd-auth 0.31 and before
ALL_MECHANISMS = (LOGIN, PLAIN, CRAM_MD5, SCRAM_SHA_256)
SERVER_MECHANISMS = (  # that another server may have (Dovecot's auth_mechanisms)
    *ALL_MECHANISMS,
    *b"DIGEST-MD5 GSSAPI GSS-SPNEGO NTLM OAUTHBEARER OTP SCRAM-SHA-1 XOAUTH2".split(),
)
LONGEST_NAME = 20  # RFC 4422 section 3.1, like the next constant
NAME_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


class Offer:
    """What EHLO announces about AUTH. `old_style`: before PIPELINING, and with the `AUTH=` line for old clients.

    `scram_if_used`: SCRAM-SHA-256 is offered in addition if the users file has a password that it can use.
    `select`: another server conducts the exchanges, and this selects the offer from its mechanisms. `settled`: whether
    that server has been asked; before that, `mechanisms` are those for EHLO if it cannot be asked.
    """

    __slots__ = ("mechanisms", "old_style", "required", "scram_if_used", "select", "settled")

    def __init__(
        self,
        mechanisms: tuple[bytes, ...],
        required: bool = False,
        old_style: bool = False,
        scram_if_used: bool = False,
    ) -> None:
        self.mechanisms = mechanisms
        self.required = required
        self.old_style = old_style
        self.scram_if_used = scram_if_used
        self.select: Callable[[tuple[bytes, ...]], tuple[bytes, ...]] | None = None
        self.settled = True

    def is_possible(self) -> bool:
        """Whether there is, or may be, a mechanism."""
        return bool(self.mechanisms) or not self.settled

    def with_scram(self, scram_is_used: bool) -> "Offer":
        """Return the offer for a users file in which SCRAM-SHA-256 is used, or not."""
        scram = (SCRAM_SHA_256,) if scram_is_used else ()
        return Offer(self.mechanisms + scram, self.required, self.old_style)

    def of_server(self, mechanisms: tuple[bytes, ...]) -> "Offer":
        """Return the offer if the server that conducts the exchanges has these mechanisms."""
        assert self.select is not None
        offer = Offer(self.select(mechanisms), self.required)
        offer.select = self.select
        return offer

    def lines(self) -> list[bytes]:
        """Return the EHLO keywords."""
        if not self.mechanisms:
            return []
        names = b" ".join(self.mechanisms)
        return [b"AUTH " + names, b"AUTH=" + names] if self.old_style else [b"AUTH " + names]


NOTHING = Offer(())


def parse_smtpauth(smtpauth: bytes | None, old: bool, users_file: bool = False) -> Offer:
    """Return the offer: the mechanisms that $SMTPAUTH lists, or else those in the table of qmail-authentication 0.8.x.

    If $SMTPAUTH is unset (None), return what the older patches offered (`old`), or nothing. `users_file`: passwords are
    checked against a users file, so SCRAM-SHA-256 is possible.
    """
    if smtpauth is None:
        return Offer(OLD_MECHANISMS, old_style=True) if old else NOTHING
    word = smtpauth.lower()
    if word == b"-":
        return NOTHING
    mode, required = word.removeprefix(b"!"), word.startswith(b"!")
    removed = removed_mechanisms(mode)
    listed = listed_mechanisms(mode)
    mechanisms = [name for name in listed or by_table(mode) if name not in removed]
    if listed:
        return Offer(tuple(name for name in mechanisms if users_file or name != SCRAM_SHA_256), required)
    scram = users_file and SCRAM_SHA_256 not in removed
    if scram and not mechanisms:
        return Offer((SCRAM_SHA_256,), required)
    return Offer(tuple(mechanisms), required, scram_if_used=scram)


def parse_for_server(smtpauth: bytes) -> Offer:
    """Return the offer if another server conducts the exchanges: those of its mechanisms that are listed, else all."""
    if smtpauth == b"-":
        return NOTHING
    words = [CRAM_MD5 if word == b"CRAM" else word for word in smtpauth.upper().removeprefix(b"!").split()]
    removed = [word[1:] for word in words if word.startswith(b"-")]
    listed = [word for word in words if word in SERVER_MECHANISMS]

    def select(mechanisms: tuple[bytes, ...]) -> tuple[bytes, ...]:
        wanted = dict.fromkeys(listed or mechanisms)
        return tuple(name for name in wanted if name in mechanisms and name not in removed)

    offer = Offer(select((*listed, PLAIN, LOGIN)), smtpauth.startswith(b"!"))
    offer.select, offer.settled = select, False
    return offer


def is_mechanism_name(word: bytes) -> bool:
    """Whether the word can be the name of a mechanism."""
    return 0 < len(word) <= LONGEST_NAME and not word.strip(NAME_LETTERS)


def listed_mechanisms(mode: bytes) -> list[bytes]:
    """Return the mechanisms that are listed one by one, in this order. Return none for a word of the table."""
    words = mode.upper().split()
    names = [word for word in words if word in ALL_MECHANISMS]
    if len(names) < len(words) and mode.startswith((b"cram", b"+cram")):
        return []
    return list(dict.fromkeys(names))


def removed_mechanisms(mode: bytes) -> list[bytes]:
    """Return the mechanisms that are named after a `-`."""
    return [word[1:] for word in mode.upper().split() if word.startswith(b"-") and word[1:] in ALL_MECHANISMS]


def by_table(mode: bytes) -> tuple[bytes, ...]:
    """Return the mechanisms of the patch's table, in which any other text means LOGIN PLAIN."""
    if mode.startswith(b"cram"):
        return (CRAM_MD5,)
    if mode.startswith(b"+cram"):
        return (LOGIN, PLAIN, CRAM_MD5)
    return (LOGIN, PLAIN)


def ineffective_for_server(smtpauth: bytes) -> list[bytes]:
    """Return the words that name no mechanism, if another server conducts the exchanges."""
    words = smtpauth.upper().removeprefix(b"!").split()
    return [
        word for word in words if word not in (b"-", b"CRAM", b"+CRAM") and word.lstrip(b"-") not in SERVER_MECHANISMS
    ]


def ineffective_words(smtpauth: bytes, users_file: bool) -> list[bytes]:
    """Return the words of a list that name no mechanism, or one that is not possible."""
    mode = smtpauth.lower().removeprefix(b"!")
    possible = [name for name in ALL_MECHANISMS if users_file or name != SCRAM_SHA_256]
    possible += [b"-" + name for name in ALL_MECHANISMS]
    words = [word for word in mode.upper().split() if word not in possible]
    return words if listed_mechanisms(mode) else [word for word in words if word.startswith(b"-") and word != b"-"]
