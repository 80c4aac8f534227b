"""Coverage-guided fuzzing of a whole session: pip install atheris, then

    python tests/fuzz/fuzz_session.py -max_total_time=600 [further options of libFuzzer] [folder for its findings]

The captured sessions are the seeds. For any bytes in any pieces it checks: no exception, the same replies as in one
piece, only known replies, only complete envelopes, and the message that the byte machine stores.
"""

import json
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.kit.machine import BARE_LF, END, machine  # noqa: E402  # on the path set above

with atheris.instrument_imports(include=["qmail_smtpd"]):
    from qmail_smtpd.smtp import replies
    from qmail_smtpd.smtp.message import MAX_HOPS
    from qmail_smtpd.smtp.offer import Offer
    from qmail_smtpd.smtp.xclient import ATTRIBUTES, WITHOUT_LOGIN
    from tests.kit.echo import Echo, converse

TRANSACTION = b"MAIL FROM:<s@s.test>\r\nRCPT TO:<u@ok.test>\r\n"
KNOWN = {value for value in vars(replies).values() if isinstance(value, bytes)} | {
    b"220 mx ESMTP",
    b"221 mx",
    b"250 mx",
    b"250-mx",
    b"250-PIPELINING",
    b"250 8BITMIME",
    b"250-8BITMIME",
    b"250 CHUNKING",
    b"250 SMTPUTF8",
    b"250-CHUNKING",
    b"250 SIZE 40",
    b"250 ok 1 qp 2",
    b"250-AUTH LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256",
    b"250 AUTH LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256",
    b"250 XCLIENT " + b" ".join(WITHOUT_LOGIN),
    *(replies.XCLIENT_VALUE % name for name in ATTRIBUTES),
}
EVERY_MECHANISM = Offer((b"LOGIN", b"PLAIN", b"CRAM-MD5", b"SCRAM-SHA-256"))
SEEDS = ("smtpd.jsonl", "smtpd-auth.jsonl")
CHOICES = [
    {},
    {"databytes": 40},
    {"relayclient": b"@relay"},
    {"relaystrict": True},
    {"refuse_bare_cr": True},
    {"maxerrors": 3, "maxrcpt": 2},
    {"rcpthosts": None},
    {"localiphost": None, "badmailfrom": frozenset({b"@s.test", b"x"})},
    {"auth": EVERY_MECHANISM},
    {"auth": Offer(EVERY_MECHANISM.mechanisms, required=True), "maxauth": 2},
    {"xclient": WITHOUT_LOGIN},
    {"chunking": True},
    {"smtputf8": True},
    {"chunking": True, "refuse_bare_cr": True, "databytes": 40},
]


def check(data: bytes) -> None:
    """Run one session. The first byte selects the settings, the second the size of the pieces."""
    if len(data) < 2:
        return
    changes = CHOICES[data[0] % len(CHOICES)]
    session, whole = converse(data[2:], 0, **changes)
    again, parts = converse(data[2:], data[1] % 16 + 1, **changes)
    assert (session.status, whole.replies, whole.queued) == (again.status, parts.replies, parts.queued)
    assert {line for line in whole.replies if not line.startswith(b"334 ")} <= KNOWN
    assert (session.user is None) == (whole.identity is None)
    assert (session.user, whole.credentials, whole.pauses) == (again.user, parts.credentials, parts.pauses)
    assert all(user and proof and b"\0" not in user + proof for user, proof, _ in whole.credentials)
    assert len(session.pending) <= 8193
    for _, envelope in whole.queued:
        assert envelope.startswith(b"F")
        assert envelope.endswith(b"\0\0")
    check_message(data[2:])
    check_chunks(data[2:], data[1] % 16 + 1)


def check_message(data: bytes) -> None:
    """Send the same bytes as a message."""
    stored, state, _, hops = machine(data)
    session, echo = converse(TRANSACTION + b"DATA\r\n" + data, 0, Echo())
    if state == END and hops < MAX_HOPS:
        assert echo.queued[0][0].partition(b"-0000\n")[2] == stored
    assert bool(echo.queued) <= (state == END)
    assert session.status is not None or state != BARE_LF


def check_chunks(data: bytes, size: int) -> None:
    """Send the same bytes as a message in chunks: they are stored, whatever they are, and none of them is a command."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    chunks = b"".join(b"BDAT %d\r\n%b" % (len(part), part) for part in parts)
    session, echo = converse(TRANSACTION + chunks + b"BDAT 0 LAST\r\nNOOP\r\n", 0, Echo(), chunking=True, maxerrors=0)
    text = data.replace(b"\r\n", b"\n")
    if echo.queued:
        assert echo.queued[0][0].partition(b"-0000\n")[2] == (
            text if text.endswith(b"\n") or not text else text + b"\n"
        )
    else:
        assert replies.TOO_MANY_HOPS in echo.replies
    assert (len(echo.replies), echo.replies[-1], session.status) == (5 + len(parts), replies.OK, None)


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        lines = [line for name in SEEDS for line in (ROOT / "tests/data" / name).read_text().splitlines()]
        for number, line in enumerate(lines):
            text = json.loads(line)["stdin"].encode("latin-1")[:2000]
            (Path(seeds) / f"{number}").write_bytes(bytes((number % len(CHOICES), number % 16)) + text)
        atheris.Setup([*sys.argv, seeds], check)
        atheris.Fuzz()


main()
