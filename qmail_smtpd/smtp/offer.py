"""$SMTPAUTH -> which mechanisms are offered, in which order, and whether a client has to use one. Pure."""

LOGIN, PLAIN, CRAM_MD5, SCRAM_SHA_256 = b"LOGIN", b"PLAIN", b"CRAM-MD5", b"SCRAM-SHA-256"
OLD = (LOGIN, CRAM_MD5, PLAIN)  # the order of qmail-smtpd-auth 0.31 and before


class Offer:
    """What EHLO tells of AUTH. `first`: before PIPELINING, and with the `AUTH=` line for old clients."""

    __slots__ = ("first", "mechanisms", "required")

    def __init__(self, mechanisms: tuple[bytes, ...], required: bool = False, first: bool = False) -> None:
        self.mechanisms = mechanisms
        self.required = required
        self.first = first

    def with_scram(self) -> "Offer":
        """The same, and SCRAM-SHA-256; of nothing, nothing."""
        return Offer((*self.mechanisms, SCRAM_SHA_256), self.required, self.first) if self.mechanisms else self

    def lines(self) -> list[bytes]:
        """The EHLO keywords."""
        if not self.mechanisms:
            return []
        names = b" ".join(self.mechanisms)
        return [b"AUTH " + names, b"AUTH=" + names] if self.first else [b"AUTH " + names]


NOTHING = Offer(())


def offer(smtpauth: bytes | None, old: bool) -> Offer:
    """The table of qmail-authentication 0.8.x, or, where $SMTPAUTH is unset, what the older patches offered (`old`)."""
    if smtpauth is None:
        return Offer(OLD, first=True) if old else NOTHING
    word = smtpauth.lower()
    if word == b"-":
        return NOTHING
    mode = word.removeprefix(b"!")
    if mode.startswith(b"cram"):
        mechanisms: tuple[bytes, ...] = (CRAM_MD5,)
    elif mode.startswith(b"+cram"):
        mechanisms = (LOGIN, PLAIN, CRAM_MD5)
    else:
        mechanisms = (LOGIN, PLAIN)
    return Offer(mechanisms, required=word.startswith(b"!"))
