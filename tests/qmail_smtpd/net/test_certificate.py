"""The certificate files: the reports about their faults, and the context that a parent keeps for its children."""

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
from tests.kit.tlspeer import OPENSSL, certify, certify_by_authority, expire

CERT, KEY = "servercert.pem", "serverkey.pem"
WORLD_ACCESSIBLE = b" contains the private key and is world-readable or world-writable"


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the control directory of a qmail home, with a certificate and a key, and change to that home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Cache, "context", None)
    monkeypatch.setattr(Cache, "files", ())
    monkeypatch.setattr(Cache, "prepared", False)
    (tmp_path / "control").mkdir()
    certify(tmp_path / "control")
    return tmp_path / "control"


@pytest.fixture
def chain(control: Path) -> Path:
    """The same with a certificate that is not self-signed: leafcert.pem, middlecert.pem, serverkey.pem."""
    certify_by_authority(control)
    return control


def test_the_key_may_be_in_the_certificate_file(control: Path) -> None:
    (control / CERT).write_text((control / KEY).read_text() + (control / CERT).read_text())
    (control / KEY).unlink()
    (control / CERT).chmod(0o640)
    certificate.context()
    (control / CERT).chmod(0o644)
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    assert (
        caught.value.why == b"control/servercert.pem contains the private key and is world-readable or world-writable"
    )


def test_a_separate_key_file_takes_precedence_over_a_key_in_the_certificate_file(control: Path) -> None:
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
def test_a_world_readable_or_world_writable_key_is_refused(control: Path, mode: int) -> None:
    (control / KEY).chmod(mode)
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    assert caught.value.why == b"control/serverkey.pem contains the private key and is world-readable or world-writable"


def test_an_unused_world_readable_key_in_the_certificate_file_is_refused(control: Path) -> None:
    """It is most likely the key in use."""
    (control / CERT).write_text((control / CERT).read_text() + (control / KEY).read_text())
    (control / CERT).chmod(0o644)
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    assert (
        caught.value.why == b"control/servercert.pem contains the private key and is world-readable or world-writable"
    )


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o660])
def test_a_key_readable_by_owner_and_group_is_accepted(control: Path, mode: int) -> None:
    (control / KEY).chmod(mode)
    certificate.context()


KINDS = {
    "RSA": ("-newkey", "rsa:2048"),
    "RSA-PSS": ("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"),
    "P-384": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"),
    "Ed25519": ("-newkey", "ed25519"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_is_accepted(control: Path, kind: str) -> None:
    certify(control, "server", *KINDS[kind])
    certificate.context()


def convert(path: Path, *words: str) -> None:
    """Replace the file by the output of an openssl command for it."""
    done = subprocess.run([peer(OPENSSL), *words, "-in", str(path)], check=True, capture_output=True)
    path.write_bytes(done.stdout)


@pytest.mark.parametrize("words", [("rsa", "-traditional"), ("pkey",)], ids=["PKCS #1", "PKCS #8"])
def test_every_format_of_an_rsa_key_is_accepted(control: Path, words: tuple[str, ...]) -> None:
    certify(control, "server", *KINDS["RSA"])
    convert(control / KEY, *words)
    certificate.context()


def test_crlf_line_ends_and_leading_text_are_accepted(control: Path) -> None:
    for path in (control / CERT, control / KEY):
        path.write_bytes(b"Bag Attributes\r\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    certificate.context()


@pytest.mark.parametrize("order", ["serverkey leafcert middlecert", "leafcert middlecert serverkey"])
def test_one_file_may_contain_all_if_the_leaf_comes_before_its_issuer(chain: Path, order: str) -> None:
    whole = "".join((chain / f"{name}.pem").read_text() for name in order.split())
    (chain / CERT).write_text(whole)
    (chain / CERT).chmod(0o600)
    (chain / KEY).unlink()
    certificate.context()


def test_a_chain_in_the_wrong_order_is_reported(chain: Path) -> None:
    (chain / CERT).write_text((chain / "middlecert.pem").read_text() + (chain / "leafcert.pem").read_text())
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    why = b"control/serverkey.pem does not hold the key of the first certificate in control/servercert.pem"
    assert caught.value.why == why


def test_a_key_of_another_kind_is_reported_like_any_other_wrong_key(control: Path) -> None:
    """OpenSSL reports a missing certificate in this case."""
    certify(control, "other", *KINDS["RSA"])[1].replace(control / KEY)
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    why = b"control/serverkey.pem does not hold the key of the first certificate in control/servercert.pem"
    assert caught.value.why == why


def test_an_expired_certificate_is_accepted(control: Path) -> None:
    """Clients complain about it. If it were refused, they would use no TLS at all."""
    expire(control)
    end = subprocess.run(
        [peer(OPENSSL), "x509", "-noout", "-checkend", "0", "-in", control / CERT], capture_output=True
    )
    assert end.returncode == 1
    certificate.context()


def encrypt_key(control: Path) -> None:
    convert(control / KEY, "ec", "-aes128", "-passout", "pass:x")


def garble(path: Path) -> None:
    """Replace a line of the base64 text."""
    lines = path.read_text().splitlines()
    lines[1] = "A" * len(lines[1])
    path.write_text("\n".join(lines) + "\n")


def swap_files(control: Path) -> None:
    (control / CERT).rename(control / "x")
    (control / KEY).rename(control / CERT)
    (control / "x").rename(control / KEY)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_small_key(control: Path) -> None:
    certify(control, "server", "-newkey", "rsa:512")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def append_other_key(control: Path) -> None:
    """Append the key of another certificate to the certificate file, and remove the key file."""
    _, key = certify(control, "other")
    (control / CERT).write_text((control / CERT).read_text() + key.read_text())
    (control / CERT).chmod(0o600)
    (control / KEY).unlink()


NO_FILE = b": file does not exist"
FAULTS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "no certificate": (lambda at: (at / CERT).unlink(), b"unable to read control/servercert.pem" + NO_FILE),
    "a link that leads nowhere": (
        lambda at: ((at / KEY).unlink(), (at / KEY).symlink_to("x")),
        b"unable to read control/serverkey.pem" + NO_FILE,
    ),
    "a directory": (
        lambda at: make_directory(at / CERT),
        b"unable to read control/servercert.pem: is a directory",
    ),
    "a pipe": (lambda at: replace_by_fifo(at / CERT), b"control/servercert.pem contains no certificate"),
    "a pipe for a key": (lambda at: replace_by_fifo(at / KEY), b"control/serverkey.pem contains no private key"),
    "a directory for a key": (
        lambda at: make_directory(at / KEY),
        b"unable to read control/serverkey.pem: is a directory",
    ),
    "DER": (
        lambda at: convert(at / CERT, "x509", "-outform", "DER"),
        b"control/servercert.pem contains no certificate",
    ),
    "a key in DER": (
        lambda at: convert(at / KEY, "pkey", "-outform", "DER"),
        b"control/serverkey.pem contains no private key",
    ),
    "a public key": (
        lambda at: convert(at / KEY, "pkey", "-pubout"),
        b"control/serverkey.pem contains no private key",
    ),
    "another's key beside it": (
        append_other_key,
        b"control/servercert.pem does not hold the key of the first certificate in control/servercert.pem",
    ),
    "empty": (lambda at: (at / CERT).write_text(""), b"control/servercert.pem contains no certificate"),
    "an empty key": (lambda at: (at / KEY).write_text(""), b"control/serverkey.pem contains no private key"),
    "a huge hole": (
        lambda at: os.truncate(at / CERT, 1 << 40),
        b"unable to read control/servercert.pem: file too big",
    ),
    "a huge hole for a key": (
        lambda at: os.truncate(at / KEY, 1 << 40),
        b"unable to read control/serverkey.pem: file too big",
    ),
    "swapped": (swap_files, b"control/servercert.pem contains no certificate"),
    "garbled certificate": (lambda at: garble(at / CERT), b"control/servercert.pem is broken"),
    "garbled key": (lambda at: garble(at / KEY), b"control/serverkey.pem is broken"),
    "encrypted": (encrypt_key, b"control/serverkey.pem is encrypted: use a key without a password"),
    "encrypted in PKCS #8": (
        lambda at: convert(at / KEY, "pkey", "-aes128", "-passout", "pass:x"),
        b"control/serverkey.pem is encrypted: use a key without a password",
    ),
    "a small key": (make_small_key, b"unable to use control/servercert.pem: ee key too small"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_reported_in_one_line_with_the_right_file(control: Path, name: str) -> None:
    damage, why = FAULTS[name]
    damage(control)
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    assert caught.value.why == why


def test_an_unreadable_file_is_reported(control: Path) -> None:
    """For root every file is readable, so a descriptor limit makes the read fail."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(certificate.TlsUnavailable) as caught:
            certificate.context()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.why == b"unable to read control/servercert.pem: process cannot open more files"


def test_a_failure_to_load_openssl_is_reported(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens if OpenSSL is in a directory for root only, and root privileges have been dropped."""
    monkeypatch.delitem(sys.modules, "qmail_smtpd.net.tls", raising=False)
    monkeypatch.delattr("qmail_smtpd.net.tls", raising=False)
    monkeypatch.setitem(sys.modules, "_ssl", None)
    with pytest.raises(certificate.TlsUnavailable) as caught:
        certificate.context()
    assert caught.value.why == b"unable to load OpenSSL: import of _ssl halted; None in sys.modules"
    certificate.prepare_context(os.fsencode(control.parent))


def test_the_context_allows_tls_1_2_and_up_without_compression_and_renegotiation(control: Path) -> None:
    context = certificate.context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("text", [None, "on\n", "off\n", "off", "unreadable"])
@pytest.mark.parametrize("prepared", [True, False])
def test_tickets_are_sent_unless_the_process_was_execd_or_the_control_file_forbids_them(
    control: Path, text: str | None, prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text == "unreadable":
        (control / "tlstickets").mkdir()
    elif text is not None:
        (control / "tlstickets").write_text(text)
    monkeypatch.setattr(Cache, "prepared", prepared)
    context = certificate.context()
    sends = prepared and text in (None, "on\n")
    assert bool(context.options & ssl.OP_NO_TICKET) is not sends
    assert bool(context.num_tickets) is sends


# A parent and its children.


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float = 10) -> None:
    """Advance the clock of the module."""
    now = certificate.time()
    monkeypatch.setattr(certificate, "time", lambda: now + seconds)


def test_children_use_the_context_of_their_parent(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_time(monkeypatch)
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


@pytest.mark.parametrize("name", CHANGES)
def test_a_child_notices_any_change_of_the_files_at_once(
    control: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pass_time(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    kept = Cache.context
    CHANGES[name](control)
    assert certificate.context() is not kept  # before the parent has noticed the change
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is not kept


def test_the_context_is_not_used_for_another_home(
    control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_time(monkeypatch)
    certificate.prepare_context(os.fsencode(tmp_path))
    (tmp_path / "other/control").mkdir(parents=True)
    certify(tmp_path / "other/control")
    monkeypatch.chdir(tmp_path / "other")
    kept = Cache.context
    assert certificate.context() is not kept


def test_no_context_is_kept_for_files_that_have_just_changed(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may change again without a newer time stamp."""
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is None
    pass_time(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is not None


def test_a_context_is_kept_for_a_day_at_most(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_time(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    kept = Cache.context
    pass_time(monkeypatch, certificate.OLDEST)
    certificate.prepare_context(os.fsencode(control.parent))
    assert Cache.context is not None
    assert Cache.context is not kept


def test_a_fault_is_checked_once_by_the_parent_and_reported_by_its_children(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_time(monkeypatch)
    (control / KEY).chmod(0o644)
    builds = []
    build = certificate.build
    monkeypatch.setattr(certificate, "build", lambda *given: (builds.append(given), build(*given))[1])
    for _ in range(3):
        certificate.prepare_context(os.fsencode(control.parent))
    assert len(builds) == 1
    with pytest.raises(certificate.TlsUnavailable):
        certificate.context()
    (control / KEY).chmod(0o600)
    pass_time(monkeypatch)
    certificate.prepare_context(os.fsencode(control.parent))
    assert certificate.context() is Cache.context


def test_many_renewals_cost_no_memory(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_time(monkeypatch, 1000)
    for round_ in range(300):
        if round_ == 50:
            before = resident()
        os.utime(control / CERT)
        certificate.prepare_context(os.fsencode(control.parent))
        assert Cache.context is not None
    assert resident() - before < 3000


def resident() -> int:
    """Return the memory of this process in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
