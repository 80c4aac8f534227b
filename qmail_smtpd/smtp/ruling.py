"""The result of the policy services for a recipient. It can refuse a recipient, never accept one. Pure."""


class Ruling:
    """`reply` is None if the services leave the decision as it is."""

    __slots__ = ("ends_session", "facts", "headers", "notes", "reply", "warnings")

    def __init__(self) -> None:
        self.reply: bytes | None = None  # refuses the recipient: 4xx or 5xx
        self.ends_session = False
        self.facts: dict[bytes, bytes] = {}  # why, for the log
        self.headers: list[bytes] = []  # lines for the beginning of the message, without line ends
        self.notes: list[dict[bytes, bytes]] = []  # what a service wants to have logged
        self.warnings: list[bytes] = []  # for the administrator

    def refuse(self, service: bytes, reply: bytes, ends_session: bool = False) -> None:
        """Refuse the recipient, because the service says so."""
        self.reply = reply
        self.ends_session = ends_session
        self.facts = {b"reason": b"policy", b"service": service, b"reply": reply.replace(b" ", b"_")}

    def fail(self, service: bytes, reply: bytes, why: bytes) -> None:
        """Refuse the recipient, because the service could not be asked."""
        self.reply = reply
        self.facts = {b"reason": b"policyservice", b"service": service, b"why": why}
