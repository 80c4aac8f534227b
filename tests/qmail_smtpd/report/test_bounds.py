"""Memory: a log whose names are all new fills every table to its bound and no further; names that count much stay."""

from collections.abc import Iterator

import pytest

from qmail_smtpd.report import relayers, suspects, tally
from qmail_smtpd.report.lines import LONGEST_LINE, Reader
from qmail_smtpd.report.summary import Summary, summarize
from qmail_smtpd.report.tables import Table
from qmail_smtpd.report.tally import Tally

START = 1795478400
BOUND = 20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (relayers, suspects, tally):
        for name in vars(module):
            if name.startswith("MOST_"):
                monkeypatch.setattr(module, name, BOUND)


def lines(count: int) -> Iterator[bytes]:
    for number in range(count):
        stamp = b"%d.5 " % (START + number * 3600)
        client = b"pid=%d ip=%d.%d.1.1 helo=h%d tls=t%d" % (number, number, number, number, number)
        yield stamp + b"tcpserver: pid %d from %d.%d.1.1" % (number, number, number)
        yield stamp + b"tcpserver: ok %d :192.0.2.1:25 :%d.%d.1.1::1" % (number, number, number)
        yield stamp + b"tcpserver: warning: w%d" % number
        yield stamp + b"qmail-smtpd: event=login %b result=no reason=x user=a%d" % (client, number)
        yield stamp + b"qmail-smtpd: event=login pid=1 ip=192.0.2.1 result=no reason=x user=a%d" % number
        yield stamp + b"qmail-smtpd: event=login %b result=yes user=u%d" % (client, number)
        yield stamp + b"qmail-smtpd: event=login %b result=yes user=joe" % client
        yield stamp + b"qmail-smtpd: event=refused %b sender= recipient=x reason=unknown" % client
        yield stamp + b"qmail-smtpd: event=refused %b reason=r%d who=w%d" % (client, number, number)
        yield stamp + b"qmail-smtpd: event=queued %b sender=a@d%d recipients=1 bytes=1 relay=login user=u%d" % (
            client,
            number,
            number,
        )
        yield stamp + b"qmail-smtpd: event=queued %b sender=a@d%d recipients=9 bytes=1 relay=login user=joe" % (
            client,
            number,
        )
        yield stamp + b"qmail-smtpd: event=aborted %b reason=r%d" % (client, number)
        yield stamp + b"qmail-smtpd: event=end %b reason=quit" % client


def read(count: int) -> tuple[Tally, Summary]:
    found = Tally()
    for name, table in vars(found).items():
        if isinstance(table, Table):
            setattr(found, name, Table(table.columns, BOUND))
    reader = Reader(found)
    reader.feed(b"".join(line + b"\n" for line in lines(count)))
    assert reader.unknown == 0
    return found, summarize(found, reader, 10)


def sizes(found: object) -> Iterator[int]:
    """Yield the sizes of all dictionaries and sets below an object of ours."""
    if isinstance(found, dict | set):
        yield len(found)
        for value in found.values() if isinstance(found, dict) else ():
            yield from sizes(value)
    elif type(found).__module__.startswith("qmail_smtpd.report"):
        for name in getattr(type(found), "__slots__", ()) or vars(found):
            yield from sizes(getattr(found, name))


def test_every_table_stops_growing() -> None:
    found, _ = read(200)
    found.exact.clear()  # names of ours
    assert max(sizes(found)) <= max(BOUND, relayers.HOURS_KEPT + 1)


def test_names_with_large_counts_stay_and_the_report_names_what_was_dropped() -> None:
    found, summary = read(200)
    assert found.total[tally.RELAYED] == 200 * 10
    relayed = next(section for section in summary.sections if section.key == "relayed")
    assert relayed.rows[0][:4] == ("joe", "login", 200, 1800)
    assert relayed.pruned > 0
    failed = next(section for section in summary.sections if section.key == "failed_addresses")
    assert failed.rows[0] == ("192.0.2.1", 200)
    assert failed.pruned > 0


def test_a_line_without_an_end_is_not_kept() -> None:
    reader = Reader(Tally())
    for _ in range(40):
        reader.feed(b"x" * LONGEST_LINE)
        assert len(reader.rest) <= LONGEST_LINE
