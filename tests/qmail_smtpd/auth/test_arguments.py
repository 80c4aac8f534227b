"""Which of qmail-smtpd's arguments is the checker: every order of the patches, and every other order.

All orders are also run for real: a random password must not be accepted, and must not allow relaying.
"""

import os
from base64 import b64encode
from itertools import permutations
from pathlib import Path

import pytest

from qmail_smtpd.auth.arguments import Refused, parse
from qmail_smtpd.main import main
from tests.kit import forked
from tests.kit.mailhome import CLIENT, CONTROL, make_home

CP, CRAM = "/bin/checkpassword", "/bin/cmd5checkpw"
IN_PATH = ("mail", "true", "checkpassword", "sh", "cmd5checkpw")

FORMS = [  # arguments, checker, checker for CRAM-MD5, host, whether the form is that of an old patch
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


def encoded(words: list[str] | None) -> list[bytes] | None:
    return None if words is None else [word.encode() for word in words]


def in_path(name: bytes) -> bool:
    return name.decode() in IN_PATH


@pytest.mark.parametrize(("words", "checker", "cram", "host", "old"), FORMS)
def test_each_form_gives_these_checkers(
    words: list[str], checker: list[str], cram: list[str], host: str | None, old: bool
) -> None:
    checkers = parse([word.encode() for word in words], in_path)
    assert (checkers.password_command, checkers.cram_command, checkers.old) == (encoded(checker), encoded(cram), old)
    assert checkers.host == (host.encode() if host else None)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "are needed"),
        ([CP], "are needed"),
        (["mx.test"], "are needed"),
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
def test_arguments_that_give_no_checker(words: list[str], why: str) -> None:
    with pytest.raises(Refused, match=why.replace("?", "\\?")):
        parse([word.encode() for word in words], in_path)


def orders(host: str, checker: str, cram: str) -> list[tuple[str, ...]]:
    """Return every order of one to five of these arguments."""
    words = (host, checker, "true", cram, "true")
    return sorted({order for length in range(1, 6) for order in permutations(words, length)})


CASES = [(index, host) for host in ("mx.example.org", "mail") for index in range(len(orders("h", "c", "d")))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a qmail home, two checkers, and a bin/ in which `mail` is a program that accepts everything."""
    folder = tmp_path_factory.mktemp("words")
    make_home(folder / "home", CONTROL)
    (folder / "bin").mkdir()
    (folder / "bin/mail").write_text("#!/bin/sh\nexit 0\n")
    (folder / "bin/mail").chmod(0o755)
    (folder / "checker").mkdir()
    for name in ("checkpassword", "cmd5checkpw"):
        (folder / "checker" / name).write_text("#!/bin/sh\ncat <&3 >/dev/null\nexit 1\n")
        (folder / "checker" / name).chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("group", range(8))
def test_no_order_of_the_arguments_accepts_a_random_password(folder: Path, group: int) -> None:
    checker, cram = str(folder / "checker/checkpassword"), str(folder / "checker/cmd5checkpw")
    guess = b64encode(b"\0joe@example.com\0" + os.urandom(9).hex().encode()).decode()
    digest = b64encode(b"joe@example.com 00000000000000000000000000000000").decode()
    logins = f"AUTH PLAIN {guess}\r\nAUTH CRAM-MD5\r\n{digest}\r\n"
    text = logins + "MAIL FROM:<s@s.test>\r\nRCPT TO:<u@evil.test>\r\nQUIT\r\n"
    env = {**CLIENT, "AUTHSLEEP": "0", "PATH": f"{folder}/bin:/usr/bin:/bin", "QMAILHOME": str(folder / "home")}
    for index, host in CASES[group::8]:
        words = orders(host, checker, cram)[index]
        for smtpauth in ({}, {"SMTPAUTH": "+cram"}):
            environ = {os.fsencode(name): os.fsencode(value) for name, value in {**env, **smtpauth}.items()}
            result = forked.run(main, ["qmail-smtpd", *words], text.encode(), environ)
            assert b"\r\n235 " not in result.stdout, words
            assert b"553 sorry, that domain isn't in my list" in result.stdout, words
            assert result.stdout.endswith(b"221 mx.example.org\r\n"), words
