"""The verdict of control/validrcptto and validrcptto.cdb, also of cdbs that other programs have made."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from qmail_smtpd import control
from qmail_smtpd.recipients import cdbscan, listed
from qmail_smtpd.recipients.listed import Listed, Lists
from qmail_smtpd.smtp.settings import Unreadable
from tcprules.compile import write_cdb
from tests.kit.support import script

LIST = b"""joe@ok.test
-spam@all.test
@all.test
-joe-private-*@ok.test
joe-*@ok.test
# -joe@ok.test
"""
VERDICTS = {
    b"joe@ok.test": True,
    b"JOE@Ok.Test": True,
    b"joe-lists@ok.test": True,
    b"joe-@ok.test": True,
    b"joe-private@ok.test": True,
    b"joe-private-x@ok.test": False,
    b"joex@ok.test": False,
    b"ann@ok.test": False,
    b"@ok.test": False,
    b"spam@all.test": False,
    b"anybody@all.test": True,
    b"spam-x@all.test": True,
    b"joe@other.test": None,
    b"joe@sub.ok.test": None,
    b"joe@ok.test.": None,
    b"joe@ok.tes": None,
    b"postmaster": None,
    b"": None,
    b"joe@": None,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "control").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verdicts(
    recipients: "list[bytes] | None" = None, smtputf8: bool = False
) -> tuple[dict[bytes, bool | None], list[bytes]]:
    """Return the verdicts about the recipients, and the warnings."""
    warnings: list[bytes] = []
    session = Listed(Lists(lambda name, text: warnings.append(name + b" " + text), smtputf8))
    try:
        return {recipient: session.verdict(recipient) for recipient in recipients or VERDICTS}, warnings
    finally:
        session.close()


def compile_list(home: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home)}
    subprocess.run([script("qmail-newvrt")], env=environ, check=True)


def write(home: Path, records: dict[bytes, bytes]) -> None:
    """Write validrcptto.cdb as another program does."""
    path = bytes(home / "control/validrcptto.cdb")
    write_cdb(path, path + b".tmp", records.items())


def test_the_list_alone_gives_the_verdicts(home: Path) -> None:
    (home / "control/validrcptto").write_bytes(LIST)
    assert verdicts() == (VERDICTS, [])


@pytest.mark.parametrize("beside", [True, False])
def test_the_compiled_list_gives_the_same_verdicts(home: Path, beside: bool) -> None:
    (home / "control/validrcptto").write_bytes(LIST)
    compile_list(home)
    if not beside:
        (home / "control/validrcptto").unlink()
    assert verdicts() == (VERDICTS, [])


def test_a_list_that_is_compiled_is_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "control/validrcptto").write_bytes(LIST)
    compile_list(home)
    monkeypatch.setattr(control, "read", None)
    assert verdicts() == (VERDICTS, [])


def test_a_list_that_has_changed_since_is_read_too_with_a_warning(home: Path) -> None:
    (home / "control/validrcptto").write_bytes(LIST)
    compile_list(home)
    (home / "control/validrcptto").write_bytes(b"ann@ok.test\n-joe@ok.test\n")
    found, warnings = verdicts([b"ann@ok.test", b"joe@ok.test", b"bob@ok.test"])
    assert found == {b"ann@ok.test": True, b"joe@ok.test": False, b"bob@ok.test": False}
    assert warnings == [b"validrcptto has changed since it was compiled: run qmail-newvrt"]


def test_a_cdb_of_the_patch_gives_the_verdicts(home: Path) -> None:
    records = {b"joe@ok.test": b"", b"spam@all.test": b"-", b"@all.test": b"", b"joe-default@ok.test": b""}
    write(home, {**records, b"joe-private-default@ok.test": b"-"})
    assert verdicts() == (VERDICTS, [])


def test_a_cdb_with_the_entries_as_keys_gives_the_verdicts(home: Path) -> None:
    write(home, {b"joe@ok.test": b"", b"-spam@all.test": b"", b"@all.test": b""})
    assert verdicts([b"joe@ok.test", b"spam@all.test", b"ann@all.test", b"ann@ok.test", b"u@other.test"])[0] == {
        b"joe@ok.test": True,
        b"spam@all.test": False,
        b"ann@all.test": True,
        b"ann@ok.test": False,
        b"u@other.test": None,
    }


def test_a_list_beside_a_cdb_of_the_patch_counts_too(home: Path) -> None:
    write(home, {b"joe@ok.test": b"", b"ann@ok.test": b"", b"bob@ok.test": b"-"})
    (home / "control/validrcptto").write_bytes(b"-ann@ok.test\nbob@ok.test\neve@more.test\n")
    assert verdicts([b"joe@ok.test", b"ann@ok.test", b"bob@ok.test", b"eve@more.test", b"x@more.test"])[0] == {
        b"joe@ok.test": True,
        b"ann@ok.test": False,
        b"bob@ok.test": False,
        b"eve@more.test": True,
        b"x@more.test": False,
    }


def test_an_empty_list_and_an_empty_cdb_give_no_verdict(home: Path) -> None:
    (home / "control/validrcptto").write_bytes(b"# nobody yet\n")
    assert set(verdicts()[0].values()) == {None}
    write(home, {})
    assert set(verdicts()[0].values()) == {None}


@pytest.mark.parametrize("block", [1 << 20, 64])
def test_the_domains_of_a_large_cdb_of_another_program_are_found(
    home: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cdbscan, "BLOCK", block)
    filler = {b"u%d@filler%d.test" % (n, n % 7): b"@data.test" for n in range(300)}
    write(home, {**filler, b"last@ok.test": b"", b"x@long.test.org": b"", b"y@prefix.test@real.test": b""})
    domains = [b"ok.test", b"real.test", b"long.test.org", b"filler6.test"]
    others = [b"data.test", b"long.test", b"test.org", b"prefix.test", b"k.test", b"filler7.test"]
    wanted = dict.fromkeys(domains, False) | dict.fromkeys(others)
    assert verdicts([b"nobody@" + domain for domain in wanted])[0] == {
        b"nobody@" + domain: verdict for domain, verdict in wanted.items()
    }


def test_a_domain_is_looked_for_once_in_a_cdb_of_another_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, {b"joe@ok.test": b""})
    lists = Lists(lambda name, text: None)
    assert Listed(lists).verdict(b"x@other.test") is None
    monkeypatch.setattr(listed, "names_domain", None)
    assert Listed(lists).verdict(b"y@other.test") is None


@pytest.mark.parametrize("name", ["validrcptto", "validrcptto.cdb"])
@pytest.mark.parametrize("trouble", ["dangling", "directory", "fifo"])
def test_a_file_that_cannot_be_read_is_an_error(home: Path, name: str, trouble: str) -> None:
    path = home / "control" / name
    if trouble == "dangling":
        path.symlink_to("nowhere")
    elif trouble == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(Unreadable):
        verdicts()


def test_a_link_that_leads_nowhere_beside_a_cdb_is_an_error(home: Path) -> None:
    write(home, {b"joe@ok.test": b""})
    (home / "control/validrcptto").symlink_to("nowhere")
    with pytest.raises(Unreadable):
        verdicts()


SPELLINGS = [
    b"xn--bcher-kva.xn--mnchen-3ya.test",
    "bücher.münchen.test".encode(),
    "bücher.xn--mnchen-3ya.test".encode(),
]


@pytest.mark.parametrize("listed", SPELLINGS[:2])
@pytest.mark.parametrize("form", ["list", "compiled", "cdb of the patch"])
def test_where_smtputf8_is_offered_an_entry_counts_for_each_spelling_of_its_domain(
    home: Path, listed: bytes, form: str
) -> None:
    lines = [b"joe@" + listed, b"-joe-x-*@" + listed, b"joe-*@" + listed]
    (home / "control/validrcptto").write_bytes(b"\n".join(lines) + b"\n")
    if form == "compiled":
        compile_list(home)
    elif form != "list":
        (home / "control/validrcptto").unlink()
        write(home, {b"joe@" + listed: b"", b"joe-x-default@" + listed: b"-", b"joe-default@" + listed: b""})
    wanted = {b"joe": True, b"JOE-a": True, b"joe-x-a": False, b"nobody": False}
    for domain in (*SPELLINGS, SPELLINGS[0].upper()):
        found = verdicts([local + b"@" + domain for local in wanted], smtputf8=True)[0]
        assert list(found.values()) == list(wanted.values()), domain
    (other,) = {*SPELLINGS[:2]} - {listed}
    assert set(verdicts([local + b"@" + other for local in wanted])[0].values()) == {None}


def test_the_entries_of_two_spellings_count_together(home: Path) -> None:
    u, a = "ü.test".encode(), b"xn--tda.test"
    (home / "control/validrcptto").write_bytes(b"@%b\n-joe@%b\njoe@%b\nann@%b\n" % (u, u, a, a))
    for domain in (u, a):
        found = verdicts([name + b"@" + domain for name in (b"joe", b"ann", b"eve")], smtputf8=True)[0]
        assert list(found.values()) == [False, True, True]


def test_a_damaged_cdb_gives_an_answer_or_an_error_and_never_reads_gigabytes(home: Path) -> None:
    write(home, {b"u%d@ok.test" % n: b"-" * (n % 3) for n in range(200)})
    content = (home / "control/validrcptto.cdb").read_bytes()
    rng = random.Random(1)  # the same changes in each run
    for number in range(200):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 8, 300])):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 255])
        del damaged[rng.randrange(len(damaged)) if number % 4 == 0 else len(damaged) :]
        (home / "control/validrcptto.cdb").write_bytes(damaged)
        try:
            verdicts([b"u1@ok.test", b"x-y@ok.test", b"x@other.test"])
        except Unreadable:
            pass


def test_mistakes_are_named(home: Path) -> None:
    (home / "control/validrcptto").write_bytes(b"-joe@closed.test\nok.test\n")
    assert verdicts()[1] == [
        b"validrcptto has lines without effect: ok.test: no @; a domain is written @example.org",
        b"validrcptto accepts no recipient of closed.test; @closed.test accepts those that it does not refuse",
    ]
