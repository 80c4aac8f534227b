"""The result of the plugins of one command, for the session. Pure."""

ERROR, REJECT, DROP = b"E", b"R", b"D"


class Outcome:
    """`ending` is empty if the command goes on. Otherwise it ends, and with REJECT and DROP the session, too."""

    __slots__ = ("address", "ending", "facts", "headers", "is_last", "later", "printed", "reply")

    def __init__(self, address: bytes) -> None:
        self.address = address  # the sender or recipient, which a plugin may change
        self.ending = b""
        self.reply = b""
        self.facts: dict[bytes, bytes] = {}  # why, for the log
        self.printed: list[bytes] = []  # lines for the client
        self.headers: list[bytes] = []  # lines for the message, without line ends
        self.later: list[tuple[bytes, bytes]] = []  # M, R or D for MAIL, RCPT or DATA, and the reply to it
        self.is_last = False  # whether no plugin is to be run any more for this client

    def end(self, ending: bytes, reply: bytes, plugin: bytes) -> None:
        """End the command, because the plugin says so."""
        self.ending, self.reply = ending, reply
        self.facts = {b"reason": b"plugin", b"plugin": plugin, b"reply": reply.replace(b" ", b"_")}

    def fail(self, reply: bytes, plugin: bytes, why: bytes) -> None:
        """End the command, because the plugin has failed."""
        self.ending, self.reply = ERROR, reply
        self.facts = {b"reason": b"plugin", b"plugin": plugin, b"why": why.replace(b" ", b"_")}
