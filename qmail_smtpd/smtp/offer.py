"""Parse $SMTPAUTH: which mechanisms are offered, in which order, and whether a login is required. Pure."""

LOGIN, PLAIN, CRAM_MD5, SCRAM_SHA_256 = b"LOGIN", b"PLAIN", b"CRAM-MD5", b"SCRAM-SHA-256"
OLD_MECHANISMS = (LOGIN, CRAM_MD5, PLAIN)  # the order of qmail-smtpd-auth 0.31 and before


class Offer:
    """What EHLO announces about AUTH. `old_style`: before PIPELINING, and with the `AUTH=` line for old clients."""

    __slots__ = ("mechanisms", "old_style", "required")

    def __init__(self, mechanisms: tuple[bytes, ...], required: bool = False, old_style: bool = False) -> None:
        self.mechanisms = mechanisms
        self.required = required
        self.old_style = old_style

    def with_scram(self) -> "Offer":
        """Return the offer with SCRAM-SHA-256 added; an empty offer stays empty."""
        return Offer((*self.mechanisms, SCRAM_SHA_256), self.required, self.old_style) if self.mechanisms else self

    def lines(self) -> list[bytes]:
        """Return the EHLO keywords."""
        if not self.mechanisms:
            return []
        names = b" ".join(self.mechanisms)
        return [b"AUTH " + names, b"AUTH=" + names] if self.old_style else [b"AUTH " + names]


NOTHING = Offer(())


def parse_smtpauth(smtpauth: bytes | None, old: bool) -> Offer:
    """Return the offer by the table of qmail-authentication 0.8.x.

    If $SMTPAUTH is unset (None), return what the older patches offered (`old`), or nothing.
    """
    if smtpauth is None:
        return Offer(OLD_MECHANISMS, old_style=True) if old else NOTHING
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
