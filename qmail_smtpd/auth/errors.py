"""The errors for a login that cannot be checked, and the words for the log if it is refused."""

WRONG_PASSWORD = b"password"
WRONG_SCHEME = b"scheme"


class CannotVerify(Exception):
    """Whether a password is right cannot be determined. This must never count as a wrong password.

    `why` is for the administrator. It contains nothing that the client sent.
    """

    def __init__(self, why: bytes) -> None:
        super().__init__(why)
        self.why = why


class UnsuitableScheme(Exception):
    """The user's password is stored as a hash that this mechanism cannot use. The password may be right."""
