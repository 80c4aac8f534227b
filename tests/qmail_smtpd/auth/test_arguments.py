"""Which of qmail-smtpd's words is the checker: every order that the patches had, and every wrong one.

The wrong ones are run for real: with a random password nobody gets in, and nobody relays.
"""

import os
from base64 import b64encode
from itertools import permutations
from pathlib import Path

import pytest

from qmail_smtpd.auth.arguments import Refused, parse
from tests.kit.checker import Checker
from tests.kit.mailhome import CLIENT, CONTROL, lay_home, talk

CP, CRAM = "/bin/checkpassword", "/bin/cmd5checkpw"
IN_PATH = ("mail", "true", "checkpassword", "sh", "cmd5checkpw")

FORMS = [  # words -> checker, checker for CRAM-MD5, host; of the old patches?
    ([CP, "true"], [CP, "true"], [CP, "true"], None, False),
    ([CP, "/bin/true"], [CP, "/bin/true"], [CP, "/bin/true"], None, False),
    ([CP, "sh", "-c", "exit 0"], [CP, "sh", "-c", "exit 0"], [CP, "sh", "-c", "exit 0"], None, False),
    (["checkpassword", "true"], ["checkpassword", "true"], ["checkpassword", "true"], None, False),
    (["no.such.host", "true"], ["no.such.host", "true"], ["no.such.host", "true"], None, False),
    ([CP, "true", CRAM, "true"], [CP, "true"], [CRAM, "true"], None, True),
    ([CP, "/bin/true", CRAM, "/usr/bin/true"], [CP, "/bin/true"], [CRAM, "/usr/bin/true"], None, True),
    (["checkpassword", "true", "cmd5checkpw", "true"], ["checkpassword", "true"], ["cmd5checkpw", "true"], None, True),
    (["mx.test", CP, "true"], [CP, "true"], [CP, "true"], "mx.test", True),
    (["mx", CP, "true", "x"], [CP, "true", "x"], [CP, "true", "x"], "mx", True),
    (["mx", CP, "true", CRAM, "true"], [CP, "true", CRAM, "true"], [CP, "true", CRAM, "true"], "mx", True),
    ([CP, "true", CRAM], [CP, "true", CRAM], [CP, "true", CRAM], None, False),
]


def raw(words: list[str] | None) -> list[bytes] | None:
    return None if words is None else [word.encode() for word in words]


def in_path(name: bytes) -> bool:
    return name.decode() in IN_PATH


@pytest.mark.parametrize(("words", "checker", "cram", "host", "old"), FORMS)
def test_form(words: list[str], checker: list[str], cram: list[str], host: str | None, old: bool) -> None:
    found = parse([word.encode() for word in words], in_path)
    assert (found.checker, found.cram, found.old) == (raw(checker), raw(cram), old)
    assert found.host == (host.encode() if host else None)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "needed"),
        ([CP], "needed"),
        (["mx.test"], "needed"),
        (["mail", CP, "true"], "is mail a host or the checker?"),
        (["checkpassword", "true", "x"], "is checkpassword a host or the checker?"),
        (["true", "true"], "may not be true"),
        (["/bin/true", CP], "may not be true"),
        (["/bin/true/", CP], "may not be true"),
        (["true", "true", CRAM, "true"], "may not be true"),
        ([CP, "true", "/bin/true", "true"], "may not be true"),
        (["mx.test", "/bin/true", CP], "may not be true"),
        (["/bin/sh", "-c", "exit 0"], "may not be sh"),
        (["bash", "x"], "may not be bash"),
        (["/bin/../bin/true", "x"], "may not be true"),
        (["./true", "x"], "may not be true"),
        (["/usr/bin/zsh5", "x"], "may not be zsh5"),
        (["/bin/bash-static", "x"], "may not be bash-static"),
        (["", "/bin/true", "x"], "may not be true"),
        (["mx.test", "/usr/bin/busybox", "true"], "may not be busybox"),
    ],
)
def test_words_that_give_no_checker(words: list[str], why: str) -> None:
    with pytest.raises(Refused, match=why.replace("?", "\\?")):
        parse([word.encode() for word in words], in_path)


def orders(host: str, checker: str, cram: str) -> list[tuple[str, ...]]:
    """Every order of one to five of these words."""
    words = (host, checker, "true", cram, "true")
    return sorted({order for length in range(1, 6) for order in permutations(words, length)})


ORDERS = [(index, host) for host in ("mx.example.org", "mail") for index in range(len(orders("h", "c", "d")))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home, two checkers, and a PATH in which `mail` is a program that is content with everything."""
    place = tmp_path_factory.mktemp("words")
    lay_home(place / "home", CONTROL)
    (place / "bin").mkdir()
    (place / "bin/mail").write_text("#!/bin/sh\nexit 0\n")
    (place / "bin/mail").chmod(0o755)
    Checker(place / "checker")
    Checker(place / "checker", "cmd5checkpw")
    return place


@pytest.mark.parametrize("group", range(8))
def test_no_order_of_the_words_lets_a_random_password_in(place: Path, group: int) -> None:
    checker, cram = str(place / "checker/checkpassword"), str(place / "checker/cmd5checkpw")
    guess = b64encode(b"\0joe@example.com\0" + os.urandom(9).hex().encode()).decode()
    digest = b64encode(b"joe@example.com 00000000000000000000000000000000").decode()
    logins = f"AUTH PLAIN {guess}\r\nAUTH CRAM-MD5\r\n{digest}\r\n"
    text = logins + "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@evil.test>\r\nQUIT\r\n"
    env = {**CLIENT, "AUTHSLEEP": "0", "PATH": f"{place}/bin:/usr/bin:/bin"}
    for index, host in ORDERS[group::8]:
        words = orders(host, checker, cram)[index]
        for smtpauth in ({}, {"SMTPAUTH": "+cram"}):
            result = talk(place / "home", text, {**env, **smtpauth}, words=words)
            assert b"\r\n235 " not in result.stdout, words
            assert b"553 sorry, that domain isn't in my list" in result.stdout, words
            assert result.stdout.endswith(b"221 mx.example.org\r\n"), words
