"""aiosmtpd that stores mail in a Maildir, for bench_store.py: aiosmtpd_store.py MAILDIR. Prints its port.

It is as durable as maildir-queue: fsync of the file, rename, fsync of new/. A thread of the pool stores each message,
so that clients do not wait for each other's disk writes.
"""

import asyncio
import itertools
import os
import sys
import time

from aiosmtpd.smtp import SMTP, Envelope, Session

MAILDIR = sys.argv[1]
NUMBERS = itertools.count()


def store(text: bytes) -> None:
    """Store one message, synced, under its name in new/."""
    name = f"{time.time_ns()}.P{os.getpid()}Q{next(NUMBERS)}.bench"
    descriptor = os.open(f"{MAILDIR}/tmp/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, text)
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(f"{MAILDIR}/tmp/{name}", f"{MAILDIR}/new/{name}")
    directory = os.open(f"{MAILDIR}/new", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


class Handler:
    """Handles each message for aiosmtpd."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        head = f"Return-Path: <{envelope.mail_from}>\n" + "".join(f"Delivered-To: {to}\n" for to in envelope.rcpt_tos)
        assert isinstance(envelope.content, bytes)
        text = head.encode() + envelope.content.replace(b"\r\n", b"\n")
        await asyncio.get_running_loop().run_in_executor(None, store, text)
        return "250 ok"


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), hostname="mx.example.com"), "127.0.0.1", 0, backlog=100)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
