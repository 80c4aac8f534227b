"""Dovecot with the files of examples/dovecot: a POP3 or IMAP login lets the client's address relay for a while."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.dovecotserver import Dovecot, dovecot_version, needs_root
from tests.kit.server import Server, until
from tests.kit.support import ROOT, is_world_readable, peer, script

pytestmark = [pytest.mark.peer, needs_root]
EXAMPLE = ROOT / "examples/dovecot"
SCRIPTS = str(Path(script("relay-check")).parent)
SECONDS = 3
GROUP = "mail"  # instead of relay, which does not exist on every host
CLIENT, NEIGHBOUR = "127.0.0.2", "127.0.0.3"
OUTSIDE = b"HELO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<someone@elsewhere.test>\r\nQUIT\r\n"
MESSAGE = b"Subject: t\n\nbody\n"
# An address of RELAY_PROXIES is not recorded; by default these are the loopback addresses.
VARIABLES = {"RELAY_SECONDS": str(SECONDS), "RELAY_PROXIES": "192.0.2.1"}


class Site:
    """Dovecot, and an SMTP server that checks the store of Dovecot's logins."""

    def __init__(self, home: Path) -> None:
        version = dovecot_version()
        configuration = (EXAMPLE / f"relay-{version}.conf").read_text().replace("/usr/local/bin", "TOP")
        if not is_world_readable(script("relay-allow"), sys.executable, ROOT / "pyproject.toml"):
            if version != "2.3":  # script-login of 2.4.4 refuses root
                pytest.skip("Dovecot's own user may not read this checkout, or not run its interpreter")
            configuration = configuration.replace("$default_internal_user", "root")
        self.dovecot = Dovecot(configuration.replace("group = relay", f"group = {GROUP}"))
        self.store = self.dovecot.top / "relay"
        subprocess.run(["install", "-d", "-g", GROUP, "-m", "2775", self.store], check=True)
        text = (EXAMPLE / "relay-postlogin").read_text()
        exports = "".join(f"export {name}={value}\n" for name, value in {**VARIABLES, "RELAY_DIR": self.store}.items())
        text = text.replace("shift\n", f"shift\n{exports}")
        text = text.replace("/usr/local/bin/relay-allow", script("relay-allow"))
        postlogin = self.dovecot.top / "relay-postlogin"
        postlogin.write_text(text)
        postlogin.chmod(0o755)
        environ = {**VARIABLES, "RELAY_DIR": str(self.store), "QMAILHOME": str(make_home(home, CONTROL))}
        environ["PATH"] = f"{SCRIPTS}:/usr/bin:/bin"
        self.smtp = Server(["-HRl", "mx", "127.0.0.1", "0", "relay-check", "qmail-smtpd"], environ=environ)

    def __enter__(self) -> "Site":
        self.smtp.__enter__()
        self.dovecot.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.dovecot.__exit__()
        self.smtp.__exit__()

    def relays(self, client: str = CLIENT) -> bool:
        """Whether mail to another domain is accepted from this client."""
        replies = self.smtp.ask(OUTSIDE, client)
        assert re.search(rb"\r\n(250 ok|553 [^\r]*)\r\n221 ", replies), replies
        return b"\r\n250 ok\r\n221 " in replies

    def log_in(self, protocol: str, password: str = "secret") -> bytes:
        """Log in, and return the first message; b"" if the login fails."""
        path = "1" if protocol == "pop3" else "INBOX;MAILINDEX=1"
        url = f"{protocol}://127.0.0.1:{self.dovecot.pop3 if protocol == 'pop3' else self.dovecot.imap}/{path}"
        command = [
            peer("/usr/bin/curl"),
            "-sS",
            "--max-time",
            "20",
            "--interface",
            CLIENT,
            "-u",
            f"joe:{password}",
            url,
        ]
        return subprocess.run(command, capture_output=True).stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site") / "home") as running:
        (running.dovecot.maildir / "new/1.host").write_bytes(MESSAGE)
        running.dovecot.own()
        yield running


@pytest.mark.parametrize("protocol", ["pop3", "imap"])
def test_a_login_allows_its_address_to_relay_until_the_entry_expires(protocol: str, site: Site) -> None:
    assert not site.relays()

    def log_in_and_send() -> bool:
        """Retried, because on a busy machine the entry may expire before the mail is sent."""
        assert site.log_in(protocol) == MESSAGE.replace(b"\n", b"\r\n")
        return site.relays()

    until(log_in_and_send, site.dovecot.log)
    assert not site.relays(NEIGHBOUR)
    service = b"pop3" if protocol == "pop3" else b"imap"
    assert re.fullmatch(rb"1 127\.0\.0\.2 %b \d+ \d+ joe\n?" % service, (site.store / CLIENT).read_bytes())
    until(lambda: not site.relays())


@pytest.mark.parametrize("protocol", ["pop3", "imap"])
def test_a_wrong_password_allows_nothing(protocol: str, site: Site) -> None:
    until(lambda: not site.relays())
    assert site.log_in(protocol, "wrong") == b""
    assert not site.relays()


@pytest.mark.parametrize("protocol", ["pop3", "imap"])
def test_without_a_store_the_login_succeeds_and_dovecot_logs_the_error(protocol: str, site: Site) -> None:
    until(lambda: not site.relays())
    site.store.rename(site.dovecot.top / "elsewhere")
    try:
        assert site.log_in(protocol) == MESSAGE.replace(b"\n", b"\r\n")
    finally:
        (site.dovecot.top / "elsewhere").rename(site.store)
    until(lambda: re.search(rf"{protocol}-postlogin: Error: relay-allow: warning: unable to read ", site.dovecot.log()))
    assert not site.relays()


def test_the_configuration_for_2_4_differs_only_in_the_name_of_the_user() -> None:
    old, new = ((EXAMPLE / f"relay-{version}.conf").read_text() for version in ("2.3", "2.4"))
    assert new == old.replace("Dovecot 2.3", "Dovecot 2.4").replace("= $default", "= $SET:default") != old
