"""What a session may ask of the world, as a type. Nothing here runs: main has the real one, the tests have an echo."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Backend(Protocol):
        """The world of one session."""

        @property
        def unheard(self) -> frozenset[bytes]:
            """Events that `log` need not be told."""

        def reply(self, line: bytes) -> None:
            """Send one line to the client; the line end is added."""

        def date(self) -> bytes:
            """Now, as a header has it."""

        def is_own_address(self, octets: bytes) -> bool:
            """Whether an IPv4 address is one of this host's. May raise policy's Unreadable."""

        def in_morercpthosts(self, key: bytes) -> bool:
            """Whether morercpthosts.cdb has the key. May raise policy's Unreadable."""

        def open_queue(self) -> bool:
            """Begin a message. False when there is no process to be had for it."""

        def write_message(self, data: bytes) -> None:
            """Store a part of the message."""

        def close_queue(self, envelope: bytes | None) -> bytes:
            """End the message, None to give it up. Returns the reply: the message is queued if that begins with 2."""

        def abandon_queue(self) -> None:
            """Leave a message without its envelope. Nobody waits for what becomes of it."""

        def log(self, event: bytes, facts: dict[bytes, bytes]) -> None:
            """Note a decision."""
