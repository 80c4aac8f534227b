"""Parse $SMTPAUTH: which mechanisms are offered, in which order, and whether a login is required. Pure."""

LOGIN, PLAIN, CRAM_MD5, SCRAM_SHA_256 = b"LOGIN", b"PLAIN", b"CRAM-MD5", b"SCRAM-SHA-256"
OLD_MECHANISMS = (LOGIN, CRAM_MD5, PLAIN)  # the order of qmail-smtpd-auth 0.31 and before
ALL_MECHANISMS = (LOGIN, PLAIN, CRAM_MD5, SCRAM_SHA_256)


class Offer:
    """What EHLO announces about AUTH. `old_style`: before PIPELINING, and with the `AUTH=` line for old clients.

    `scram_if_used`: SCRAM-SHA-256 is offered in addition if the users file has a password that it can use.
    """

    __slots__ = ("mechanisms", "old_style", "required", "scram_if_used")

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

    def settled(self, scram_is_used: bool) -> "Offer":
        """Return the offer for a users file in which SCRAM-SHA-256 is used, or not."""
        scram = (SCRAM_SHA_256,) if scram_is_used else ()
        return Offer(self.mechanisms + scram, self.required, self.old_style)

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


def ineffective_words(smtpauth: bytes, users_file: bool) -> list[bytes]:
    """Return the words of a list that name no mechanism, or one that is not possible."""
    mode = smtpauth.lower().removeprefix(b"!")
    possible = [name for name in ALL_MECHANISMS if users_file or name != SCRAM_SHA_256]
    possible += [b"-" + name for name in ALL_MECHANISMS]
    words = [word for word in mode.upper().split() if word not in possible]
    return words if listed_mechanisms(mode) else [word for word in words if word.startswith(b"-") and word != b"-"]
