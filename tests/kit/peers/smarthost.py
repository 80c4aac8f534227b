"""An SMTP server on loopback that answers one command as a test wants, and all others with success."""

import io
import socket
import threading
from collections.abc import Mapping

GREETING = "greeting"  # the reply before any command
MESSAGE = "message"  # the reply to the final dot
REPLIES = {
    GREETING: "220 smarthost ESMTP",
    "EHLO": "250-smarthost\r\n250 AUTH PLAIN",
    "AUTH": "235 ok",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
    "DATA": "354 go on",
    MESSAGE: "250 stored",
    "QUIT": "221 bye",
}
CLOSE = ""  # in place of a reply: the connection ends


class Smarthost:
    """`with Smarthost({"RCPT": "450 later"}) as smarthost:`; a key such as `RCPT 2` is for the second RCPT alone."""

    def __init__(self, replies: Mapping[str, str]) -> None:
        self.replies = {**REPLIES, **replies}
        self.commands: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self) -> "Smarthost":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # accept returns
        self.thread.join()
        self.listener.close()

    @property
    def recipients(self) -> list[str]:
        return [command[len("RCPT TO:") :] for command in self.commands if command.startswith("RCPT TO:")]

    def serve(self) -> None:
        """Serve one client after another until the listener is shut down."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, client.makefile("rwb") as stream:
                client.settimeout(20)
                try:
                    self.converse(stream)
                except OSError:  # the client is gone
                    pass

    def converse(self, stream: io.BufferedRWPair) -> None:
        """Answer until QUIT, or until CLOSE is the reply."""
        counts: dict[str, int] = {}
        word = GREETING
        while True:
            counts[word] = counts.get(word, 0) + 1
            reply = self.replies.get(f"{word} {counts[word]}", self.replies.get(word, "500 unknown"))
            if reply == CLOSE:
                return
            stream.write(f"{reply}\r\n".encode())
            stream.flush()
            if word == "QUIT":
                return
            if reply.startswith("354"):
                while stream.readline() not in (b".\r\n", b""):
                    pass
                word = MESSAGE
                continue
            command = stream.readline().decode("latin-1").rstrip("\r\n")
            if not command:
                return
            self.commands.append(command)
            word = command[:4].upper()
