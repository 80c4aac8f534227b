"""The certificate's files: what is wrong with them, in words; and the context that a parent keeps for its children."""

import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qmail_smtpd.net import certificate
from qmail_smtpd.net.certificate import Cache
from tests.kit.support import peer
from tests.kit.tlspeer import OPENSSL, certify, certify_by_authority

CERT, KEY = "servercert.pem", "serverkey.pem"
WORLD_ACCESSIBLE = b" contains the private key and is world-readable or world-writable"


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control directory of a home that is the current directory, with a certificate and a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Cache, "context", None)
    monkeypatch.setattr(Cache, "files", ())
    (tmp_path / "control").mkdir()
    certify(tmp_path / "control")
    return tmp_path / "control"


@pytest.fixture
def chain(control: Path) -> Path:
    """The same, where the certificate is not signed by itself: leafcert.pem, middlecert.pem, serverkey.pem."""
    certify_by_authority(control)
    return control


def test_the_key_may_be_in_the_certificate_s_file(control: Path) -> None:
    (control / CERT).write_text((control / KEY).read_text() + (control / CERT).read_text())
    (control / KEY).unlink()
    (control / CERT).chmod(0o640)
    certificate.context()
    (control / CERT).chmod(0o644)
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    assert (
        trouble.value.why == b"control/servercert.pem contains the private key and is world-readable or world-writable"
    )


def test_a_key_of_its_own_goes_before_one_in_the_certificate_s_file(control: Path) -> None:
    other, key = certify(control, "other")
    (control / CERT).write_text((control / CERT).read_text() + key.read_text())
    (control / CERT).chmod(0o640)
    certificate.context()
    key.replace(control / KEY)
    with pytest.raises(certificate.TlsUnavailable):
        certificate.context()
    other.replace(control / CERT)
    certificate.context()


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_a_key_that_everybody_can_read_or_write_is_refused(control: Path, mode: int) -> None:
    (control / KEY).chmod(mode)
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    assert (
        trouble.value.why == b"control/serverkey.pem contains the private key and is world-readable or world-writable"
    )


def test_a_key_beside_the_certificate_is_refused_like_one_of_its_own_if_everybody_can_read_it(control: Path) -> None:
    """Most likely they are the same."""
    (control / CERT).write_text((control / CERT).read_text() + (control / KEY).read_text())
    (control / CERT).chmod(0o644)
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    assert (
        trouble.value.why == b"control/servercert.pem contains the private key and is world-readable or world-writable"
    )


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o660])
def test_a_key_for_its_owner_and_a_group_is_taken(control: Path, mode: int) -> None:
    (control / KEY).chmod(mode)
    certificate.context()


KINDS = {
    "RSA": ("-newkey", "rsa:2048"),
    "RSA-PSS": ("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"),
    "P-384": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"),
    "Ed25519": ("-newkey", "ed25519"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_is_taken(control: Path, kind: str) -> None:
    certify(control, "server", *KINDS[kind])
    certificate.context()


def converted(path: Path, *words: str) -> None:
    """The file as an openssl command writes it."""
    made = subprocess.run([peer(OPENSSL), *words, "-in", str(path)], check=True, capture_output=True)
    path.write_bytes(made.stdout)


@pytest.mark.parametrize("words", [("rsa", "-traditional"), ("pkey",)], ids=["PKCS #1", "PKCS #8"])
def test_every_form_of_an_rsa_key_is_taken(control: Path, words: tuple[str, ...]) -> None:
    certify(control, "server", *KINDS["RSA"])
    converted(control / KEY, *words)
    certificate.context()


def test_line_ends_may_be_those_of_windows_and_text_may_stand_before(control: Path) -> None:
    for path in (control / CERT, control / KEY):
        path.write_bytes(b"Bag Attributes\r\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    certificate.context()


@pytest.mark.parametrize("order", ["serverkey leafcert middlecert", "leafcert middlecert serverkey"])
def test_one_file_may_hold_all_where_the_leaf_comes_before_its_issuer(chain: Path, order: str) -> None:
    whole = "".join((chain / f"{name}.pem").read_text() for name in order.split())
    (chain / CERT).write_text(whole)
    (chain / CERT).chmod(0o600)
    (chain / KEY).unlink()
    certificate.context()


def test_a_chain_in_the_wrong_order_is_named(chain: Path) -> None:
    (chain / CERT).write_text((chain / "middlecert.pem").read_text() + (chain / "leafcert.pem").read_text())
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    why = b"control/serverkey.pem does not hold the key of the first certificate in control/servercert.pem"
    assert trouble.value.why == why


def test_a_key_of_another_kind_is_named_as_any_other(control: Path) -> None:
    """OpenSSL says of it that there is no certificate."""
    certify(control, "other", *KINDS["RSA"])[1].replace(control / KEY)
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    why = b"control/serverkey.pem does not hold the key of the first certificate in control/servercert.pem"
    assert trouble.value.why == why


def test_an_expired_certificate_is_shown_as_it_is(control: Path) -> None:
    """Its clients complain; without it they would speak in clear."""
    words = ["x509", "-new", "-subj", "/CN=x", "-key", control / KEY, "-days", "-1", "-out", control / CERT]
    made = subprocess.run([peer(OPENSSL), *words], capture_output=True)
    if made.returncode:  # OpenSSL 1.1.1 cannot
        pytest.skip(made.stderr.decode())
    certificate.context()


def encrypted(control: Path) -> None:
    converted(control / KEY, "ec", "-aes128", "-passout", "pass:x")


def garbled(path: Path) -> None:
    """Half of what stands between the marks becomes other base64."""
    lines = path.read_text().splitlines()
    lines[1] = "A" * len(lines[1])
    path.write_text("\n".join(lines) + "\n")


def swapped(control: Path) -> None:
    (control / CERT).rename(control / "x")
    (control / KEY).rename(control / CERT)
    (control / "x").rename(control / KEY)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def small(control: Path) -> None:
    certify(control, "server", "-newkey", "rsa:512")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def together(control: Path) -> None:
    """A certificate, and the key of another one."""
    _, key = certify(control, "other")
    (control / CERT).write_text((control / CERT).read_text() + key.read_text())
    (control / CERT).chmod(0o600)
    (control / KEY).unlink()


NO_FILE = b": file does not exist"
TROUBLES: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "no certificate": (lambda at: (at / CERT).unlink(), b"unable to read control/servercert.pem" + NO_FILE),
    "a link that leads nowhere": (
        lambda at: ((at / KEY).unlink(), (at / KEY).symlink_to("x")),
        b"unable to read control/serverkey.pem" + NO_FILE,
    ),
    "a directory": (lambda at: directory(at / CERT), b"unable to read control/servercert.pem: is a directory"),
    "a pipe": (lambda at: piped(at / CERT), b"control/servercert.pem contains no certificate"),
    "a pipe for a key": (lambda at: piped(at / KEY), b"control/serverkey.pem contains no private key"),
    "a directory for a key": (lambda at: directory(at / KEY), b"unable to read control/serverkey.pem: is a directory"),
    "DER": (
        lambda at: converted(at / CERT, "x509", "-outform", "DER"),
        b"control/servercert.pem contains no certificate",
    ),
    "a key in DER": (
        lambda at: converted(at / KEY, "pkey", "-outform", "DER"),
        b"control/serverkey.pem contains no private key",
    ),
    "a public key": (
        lambda at: converted(at / KEY, "pkey", "-pubout"),
        b"control/serverkey.pem contains no private key",
    ),
    "another's key beside it": (
        together,
        b"control/servercert.pem does not hold the key of the first certificate in control/servercert.pem",
    ),
    "empty": (lambda at: (at / CERT).write_text(""), b"control/servercert.pem contains no certificate"),
    "an empty key": (lambda at: (at / KEY).write_text(""), b"control/serverkey.pem contains no private key"),
    "swapped": (swapped, b"control/servercert.pem contains no certificate"),
    "garbled certificate": (lambda at: garbled(at / CERT), b"control/servercert.pem is broken"),
    "garbled key": (lambda at: garbled(at / KEY), b"control/serverkey.pem is broken"),
    "encrypted": (encrypted, b"control/serverkey.pem is encrypted: use a key without a password"),
    "encrypted in PKCS #8": (
        lambda at: converted(at / KEY, "pkey", "-aes128", "-passout", "pass:x"),
        b"control/serverkey.pem is encrypted: use a key without a password",
    ),
    "a small key": (small, b"unable to use control/servercert.pem: ee key too small"),
}


@pytest.mark.parametrize("what", TROUBLES)
def test_what_is_wrong_is_said_of_the_right_file_in_one_line(control: Path, what: str) -> None:
    spoil, why = TROUBLES[what]
    spoil(control)
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    assert trouble.value.why == why


def test_what_cannot_be_read_is_named(control: Path) -> None:
    """As root nothing is unreadable: a descriptor limit is as good."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(certificate.TlsUnavailable) as trouble:
            certificate.context()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert trouble.value.why == b"unable to read control/servercert.pem: process cannot open more files"


def test_a_python_that_cannot_load_openssl_says_so(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it lies in a directory that is root's alone, and root has been given up."""
    monkeypatch.delitem(sys.modules, "qmail_smtpd.net.tls", raising=False)
    monkeypatch.delattr("qmail_smtpd.net.tls", raising=False)
    monkeypatch.setitem(sys.modules, "_ssl", None)
    with pytest.raises(certificate.TlsUnavailable) as trouble:
        certificate.context()
    assert trouble.value.why == b"unable to load OpenSSL: import of _ssl halted; None in sys.modules"
    certificate.prepare_context(os.fsencode(control.parent))


def test_the_context_speaks_tls_1_2_and_up_without_compression_or_renegotiation(control: Path) -> None:
    context = certificate.context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_NO_TICKET
    assert context.num_tickets > 0


# A parent, and its children.


def settle(monkeypatch: pytest.MonkeyPatch, seconds: float = 10) -> None:
    """Let so much time have passed."""
    now = certificate.time()
    monkeypatch.setattr(certificate, "time", lambda: now + seconds)


def test_what_a_parent_keeps_its_children_use(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    kept = Cache.context
    assert kept is not None
    assert certificate.context() is kept
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is kept


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": lambda at: certify(at),
    "touched": lambda at: os.utime(at / CERT),
    "mode": lambda at: (at / KEY).chmod(0o640),
    "renamed": lambda at: ((at / CERT).rename(at / "x"), (at / "x").rename(at / CERT)),
    "in place": lambda at: (at / KEY).write_bytes((at / KEY).read_bytes()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_happens_to_the_files_a_child_sees_it_at_once(
    control: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    settle(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    kept = Cache.context
    CHANGES[what](control)
    assert certificate.context() is not kept  # before the parent has looked
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is not kept


def test_another_home_has_another_certificate(control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    certificate.prepare_context(os.fsencode(tmp_path))
    (tmp_path / "other/control").mkdir(parents=True)
    certify(tmp_path / "other/control")
    monkeypatch.chdir(tmp_path / "other")
    assert certificate.context() is not Cache.context


def test_a_file_that_has_just_changed_is_not_kept(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again without a newer time."""
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is None
    settle(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is not None


def test_a_context_is_kept_for_a_day(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    kept = Cache.context
    settle(monkeypatch, certificate.OLDEST)
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is not None
    assert Cache.context is not kept


def test_trouble_is_the_children_s_to_tell_and_looked_at_once(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    (control / KEY).chmod(0o644)
    builds = []
    build = certificate.build
    monkeypatch.setattr(certificate, "build", lambda home: (builds.append(home), build(home))[1])
    for _ in range(3):
        certificate.prepare_context(os.fsencode(control.parent))
    assert len(builds) == 1
    with pytest.raises(certificate.TlsUnavailable):
        certificate.context()
    (control / KEY).chmod(0o600)
    settle(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    assert certificate.context() is Cache.context


def test_many_renewals_cost_no_memory(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch, 1000)
    for round_ in range(300):
        if round_ == 50:
            before = resident()
        os.utime(control / CERT)
        certificate.prepare_context(os.fsencode(control.parent))
        assert Cache.context is not None
    assert resident() - before < 3000


def resident() -> int:
    """kB of memory that this process has now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
