"""TLS clients for the benchmarks, in their own processes."""

import base64
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path

from load import expect

SETTLED = 2.1  # seconds, a little more than qmail_smtpd.net.certificate.SETTLED
LOGIN = b"AUTH PLAIN " + base64.b64encode(b"\0joe\0secret") + b"\r\n"


def certify(home: Path) -> tuple[Path, Path]:
    """Create a certificate of P-256 for a home, and its key. Wait until a server keeps a context for them."""
    certificate, key = home / "control/servercert.pem", home / "control/serverkey.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=mx.example.com"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)
    time.sleep(SETTLED)
    return certificate, key


def unverified_context() -> ssl.SSLContext:
    """Return a client's context that does not verify certificates: only the server is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Visitor:
    """One client after another. With `resume` each one resumes the previous TLS session."""

    def __init__(self, port: int, resume: bool) -> None:
        self.port, self.resume = port, resume
        self.context = unverified_context()
        self.session: ssl.SSLSession | None = None
        self.resumed = 0

    def visit(self, script: list[bytes]) -> None:
        """Do STARTTLS, then send each line of the script after the reply to the one before."""
        with socket.create_connection(("127.0.0.1", self.port)) as plain:
            expect(plain, b"220")
            plain.sendall(b"EHLO client.example\r\n")
            expect(plain, b"250")
            plain.sendall(b"STARTTLS\r\n")
            expect(plain, b"220")
            with self.context.wrap_socket(plain, session=self.session, suppress_ragged_eofs=True) as client:
                self.resumed += client.session_reused
                for line in script:
                    client.sendall(line)
                    expect(client, (b"2", b"3"))
                client.sendall(b"QUIT\r\n")
                expect(client, b"221")
                if self.resume:
                    self.session = client.session


def visit(port: int, sessions: int, processes: int, script: list[bytes], resume: bool = False) -> tuple[float, int]:
    """Run this many sessions, with `processes` clients at once. Return the seconds, and how many were resumed."""
    started = time.perf_counter()
    share = sessions // processes
    ends, children = os.pipe(), []
    for _ in range(processes):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                visitor = Visitor(port, resume)
                for _ in range(share):
                    visitor.visit(script)
                os.write(ends[1], b"%9d" % visitor.resumed)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert not [pid for pid in children if os.waitpid(pid, 0)[1]], "a client has failed"
    seconds = time.perf_counter() - started
    os.close(ends[1])
    with os.fdopen(ends[0], "rb") as pipe:
        resumed = sum(int(number) for number in iter(lambda: pipe.read(9), b""))
    return seconds, resumed
