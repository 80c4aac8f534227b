"""The other side of TLS for the tests: certificates made by openssl, and a client on any two descriptors."""

import os
import re
import select
import shutil
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kit.mailhome import Result, start
from tests.kit.support import peer

PATIENCE = 20_000  # milliseconds until a silent server counts as failed
HOST = "mx.example.org"
OPENSSL = "/usr/bin/openssl"


def certify(directory: Path, name: str = "server", *words: str, host: str = HOST) -> tuple[Path, Path]:
    """Create a self-signed certificate for a host and its key, of P-256 unless the words select another kind.

    Return both paths.
    """
    key, certificate = directory / f"{name}key.pem", directory / f"{name}cert.pem"
    kind = words or ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    command = [peer(OPENSSL), "req", "-x509", "-nodes", *kind, "-keyout", str(key), "-out", str(certificate)]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host},DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, *names, "-days", "2"], check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


def issue(directory: Path, name: str, issuer: str, extensions: str) -> tuple[Path, Path]:
    """Create a certificate issued by `issuer`'s, which this or `certify` has made, and its RSA key.

    Return both paths.
    """
    key, certificate, file = (directory / f"{name}{end}" for end in ("key.pem", "cert.pem", "extensions"))
    file.write_text(extensions)
    words = [peer(OPENSSL), "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={name}", "-keyout", str(key)]
    request = subprocess.run(words, check=True, capture_output=True).stdout
    words = [peer(OPENSSL), "x509", "-req", "-days", "2", "-set_serial", "1", "-out", str(certificate)]
    words += ["-CA", str(directory / f"{issuer}cert.pem"), "-CAkey", str(directory / f"{issuer}key.pem")]
    subprocess.run([*words, "-extfile", str(file)], input=request, check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


AUTHORITY = """[ca]
default_ca = here
[here]
database = index
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def expire(directory: Path) -> None:
    """Replace servercert.pem by one that ended in 2021, for the same key.

    Only `openssl ca` accepts such times in all versions: 1.1.1 and 3.5 refuse `-days -1`, 3.0 has no `-not_after`.
    """
    with TemporaryDirectory() as own:
        (Path(own) / "authority").write_text(AUTHORITY)
        (Path(own) / "index").touch()
        key = str((directory / "serverkey.pem").absolute())
        request = [peer(OPENSSL), "req", "-new", "-subj", f"/CN={HOST}", "-key", key, "-out", "request"]
        subprocess.run(request, cwd=own, check=True, capture_output=True)
        times = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"]
        words = ["ca", "-config", "authority", "-selfsign", "-batch", "-notext", "-outdir", ".", *times]
        subprocess.run(
            [OPENSSL, *words, "-keyfile", key, "-in", "request", "-out", "cert"],
            cwd=own,
            check=True,
            capture_output=True,
        )
        shutil.copyfile(Path(own) / "cert", directory / "servercert.pem")


def certify_by_authority(directory: Path) -> Path:
    """As `certify` without words, but with a chain: the root, middlecert.pem, the certificate. Return the root."""
    root, _ = certify(directory, "root")
    middle, _ = issue(directory, "middle", "root", "basicConstraints=critical,CA:TRUE\n")
    leaf, key = issue(directory, "leaf", "middle", f"subjectAltName=DNS:{HOST},IP:127.0.0.1\n")
    (directory / "servercert.pem").write_text(leaf.read_text() + middle.read_text())
    key.replace(directory / "serverkey.pem")
    return root


def trusting(*certificates: Path) -> ssl.SSLContext:
    """Return a client's context that trusts only these certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in certificates:
        context.load_verify_locations(certificate)
    return context


def insecure_context(newest: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a client's context that accepts any certificate, and obsolete versions and ciphers up to this version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    return context


class Client:
    """A TLS client over two descriptors. It sends pieces of `piece` bytes, or everything at once if that is 0."""

    def __init__(
        self,
        ends: tuple[int, int],
        context: ssl.SSLContext,
        piece: int = 0,
        session: ssl.SSLSession | None = None,
        host: str | None = HOST,
    ) -> None:
        self.ends, self.piece = ends, piece
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host, session=session)

    def hello(self) -> bytes:
        """Return the first flight of a handshake without sending it."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def handshake(self) -> "Client":
        self.until_done(self.tls.do_handshake)
        return self

    def send(self, text: bytes) -> None:
        while text:
            text = text[self.tls.write(text) :]
            self.put(self.outgoing.read())

    def encrypt(self, text: bytes) -> bytes:
        """Return the records of a text without sending them."""
        self.tls.write(text)
        return self.outgoing.read()

    def receive(self) -> bytes:
        """Return one part of the server's data, b"" at close_notify.

        Raise ssl.SSLEOFError if the connection just ends.
        """
        received = b""

        def step() -> None:
            nonlocal received
            received = self.tls.read(65536)

        self.until_done(step)
        return received

    def receive_all(self) -> bytes:
        text = b""
        while part := self.receive():
            text += part
        return text

    def receive_until(self, end: bytes) -> bytes:
        text = b""
        while not text.endswith(end):
            part = self.receive()
            assert part, text
            text += part
        return text

    def until_done(self, step: Callable[[], object]) -> None:
        """Do a step of TLS, sending and receiving whatever it needs."""
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self.put(self.outgoing.read())
                data = get(self.ends[0])
                self.incoming.write(data) if data else self.incoming.write_eof()
            else:
                self.put(self.outgoing.read())
                return

    def put(self, data: bytes) -> None:
        """Send bytes unencrypted."""
        size = self.piece or len(data) or 1
        for position in range(0, len(data), size):
            part = data[position : position + size]
            while part:
                part = part[os.write(self.ends[1], part) :]


def get(descriptor: int) -> bytes:
    """Return the next bytes, waiting for PATIENCE. A reset is an end."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    assert poller.poll(PATIENCE), "the server sends nothing"
    try:
        return os.read(descriptor, 65536)
    except ConnectionResetError:
        return b""


def get_all(descriptor: int) -> bytes:
    data = b""
    while part := get(descriptor):
        data += part
    return data


class Smtp:
    """One session of qmail-smtpd on two pipes. `client` is the TLS client, after `secure`."""

    def __init__(self, home: Path, env: dict[str, str] | None = None, words: Sequence[str] = ()) -> None:
        self.home = home
        self.process = start(home, env, words)
        assert self.process.stdin
        assert self.process.stdout
        self.ends = self.process.stdout.fileno(), self.process.stdin.fileno()
        self.client: Client | None = None

    def __enter__(self) -> "Smtp":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def put(self, data: bytes) -> None:
        """Send bytes unencrypted."""
        os.write(self.ends[1], data)

    def reply(self) -> bytes:
        """Return the next reply with all its lines, in plaintext or under TLS."""
        text = b""
        while not re.fullmatch(rb"(\d\d\d-.*\r\n)*\d\d\d .*\r\n", text):
            part = self.client.receive() if self.client else get(self.ends[0])
            assert part, text
            text += part
        return text

    def ask(self, text: str) -> str:
        """Send one line, and return the reply."""
        line = text.encode("latin-1") + b"\r\n"
        if self.client:
            self.client.send(line)
        else:
            self.put(line)
        return self.reply().decode("latin-1").replace("\r\n", "\n").rstrip("\n")

    def secure(self, certificate: Path, piece: int = 0) -> None:
        """Do the TLS handshake."""
        self.client = Client(self.ends, trusting(certificate), piece).handshake()

    def end(self, left: bytes = b"") -> Result:
        """Send the rest, close the connection, and return the result of the session."""
        stdout, stderr = self.process.communicate(left, timeout=PATIENCE / 1000)
        return Result(stdout, stderr, self.process.returncode, self.home)
