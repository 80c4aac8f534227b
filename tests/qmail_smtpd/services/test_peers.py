"""Policy services that are made for Postfix, each with two hundred sessions."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.policyservices import policyd_rate_limit, policyd_spf, postgrey
from tests.kit.server import Server, needs_root, until
from tests.kit.support import script

pytestmark = [pytest.mark.peer, needs_root]
SESSIONS = 200
CLIENTS = 8  # at the same time


def serving(home: Path, *options: str, **environ: str) -> Server:
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    return Server(words, environ={"QMAILHOME": str(home), "SMTPD_LOG": "all", **environ})


def home_with(tmp_path: Path, line: str, **control: str) -> Path:
    return make_home(tmp_path / "home", {**CONTROL, "policyservice": f"{line}\n", **control})


def ask(server: Server, sender: str, before: str = "", send: bool = False) -> str:
    """Use one session, which begins with the command `before`, and return the reply to its recipient."""
    ending = "DATA\r\nhello\r\n.\r\nQUIT\r\n" if send else "QUIT\r\n"
    text = f"{before}EHLO c.test\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<u@example.com>\r\n{ending}"
    lines = server.ask(text.encode()).decode().split("\r\n")
    assert lines[1].startswith("235 " if "AUTH" in before else "2"), lines
    assert lines[-2].startswith("221 "), lines
    return lines[-5 if send else -3]


def test_postgrey_defers_each_sender_once(tmp_path: Path) -> None:
    with postgrey(tmp_path, 1) as line, serving(home_with(tmp_path, line)) as server:
        senders = [f"s{number}@s.test" for number in range(SESSIONS // 2)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            first = Counter(pool.map(lambda sender: ask(server, sender)[:26], senders))
            assert first == {"450 4.2.0 Greylisted, see ": len(senders)}
            until(lambda: ask(server, senders[-1]) == "250 ok")
            assert set(pool.map(lambda sender: ask(server, sender), senders[1:])) == {"250 ok"}
            assert ask(server, senders[0], send=True) == "250 ok"
    (message,) = (path.read_bytes() for path in (tmp_path / "home/dump").glob("*.m"))
    assert re.match(rb"X-Greylist: delayed [^\n]*\nReceived: from ", message)


def test_policyd_spf_refuses_hosts_that_a_domain_does_not_name(tmp_path: Path) -> None:
    records = {"pass.test": "v=spf1 ip4:192.0.2.0/24 -all", "none.test": "no record of SPF"}
    right, wrong = (f"XCLIENT ADDR={address}\r\n" for address in ("192.0.2.1", "198.51.100.1"))
    questions = [("s@pass.test", right), ("s@pass.test", wrong), ("s@none.test", wrong), ("", right)]
    with policyd_spf(tmp_path, records) as line:
        home = home_with(tmp_path, line, xclienthosts="127.0.0.1\n")
        with serving(home) as server, ThreadPoolExecutor(CLIENTS) as pool:
            replies = pool.map(lambda question: ask(server, *question)[:10], questions * 50)
            found = Counter(zip(questions * 50, replies, strict=True))
            expected = ["250 ok", "550 5.7.23", "250 ok", "250 ok"]
            assert found == dict.fromkeys(zip(questions, expected, strict=True), 50)
            ask(server, "s@pass.test", right, True)
    (message,) = (path.read_bytes() for path in (tmp_path / "home/dump").glob("*.m"))
    assert re.match(rb"Received-SPF: Pass [^\n]* client-ip=192\.0\.2\.1; [^\n]*\nReceived: from ", message)


def test_policyd_rate_limit_counts_the_recipients_of_each_user(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("joe:{PLAIN}secret\nann:{PLAIN}secret\n")
    (tmp_path / "users").chmod(0o600)
    log_in = {"joe": "AUTH PLAIN AGpvZQBzZWNyZXQ=\r\n", "ann": "AUTH PLAIN AGFubgBzZWNyZXQ=\r\n"}
    limit = 30
    with policyd_rate_limit(tmp_path, limit) as line:
        home = home_with(tmp_path, f"{line} relay", authcleartext="")
        environ = {"SMTPAUTHFILE": str(tmp_path / "users"), "AUTHSLEEP": "0"}
        with serving(home, **environ) as server, ThreadPoolExecutor(CLIENTS) as pool:
            users = ["joe", "ann"] * (SESSIONS // 2)
            replies = pool.map(lambda user: ask(server, "s@s.test", log_in[user]), users)
            found = Counter(zip(users, (reply[:3] for reply in replies), strict=True))
            assert ask(server, "s@s.test") == "250 ok"  # nobody is logged in: the service is not asked
    assert found == {
        (user, code): count for user in log_in for code, count in (("250", limit), ("450", SESSIONS // 2 - limit))
    }
