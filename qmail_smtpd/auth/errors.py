"""The error for a password that cannot be checked."""


class CannotVerify(Exception):
    """Whether a password is right cannot be determined. This must never count as a wrong password.

    `why` is for the administrator. It contains nothing that the client sent.
    """

    def __init__(self, why: bytes) -> None:
        super().__init__(why)
        self.why = why
