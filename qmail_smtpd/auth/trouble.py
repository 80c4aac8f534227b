"""Why nobody can say whether a password is right: never to be taken for a wrong one."""


class Trouble(Exception):
    """`why` is for the administrator. It holds nothing of the client's."""

    def __init__(self, why: bytes) -> None:
        super().__init__(why)
        self.why = why
