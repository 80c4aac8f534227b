"""A day of 10,000 sessions with a stolen login in it: what the report says, from text and from JSON."""

from functools import cache

import pytest

from qmail_smtpd.report.findings import Finding
from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.summary import Summary, summarize
from qmail_smtpd.report.tally import Tally
from tests.kit.logs import traffic


@cache
def day(as_json: bool = False, incident: bool = True, sessions: int = 10_000) -> Summary:
    clients = traffic.day(sessions, incident=incident)
    tally = Tally()
    reader = Reader(tally)
    reader.feed(traffic.objects(clients) if as_json else traffic.text(clients))
    reader.finish()
    return summarize(tally, reader, 20)


def rounded(finding: Finding) -> Finding:
    """Return a finding without the fractions of its times, of which JSON has six digits."""
    return finding._replace(when=(round(finding.when[0], 3), round(finding.when[1], 3)) if finding.when else None)


def rows(summary: Summary, key: str) -> list[tuple[str | int, ...]]:
    return next(section.rows for section in summary.sections if section.key == key)


@pytest.mark.slow
def test_the_report_names_the_incident_first() -> None:
    summary = day()
    kinds = [(finding.kind, finding.who) for finding in summary.findings]
    assert kinds == [
        ("guessed-login", traffic.VICTIM),
        ("unusual-relaying", traffic.VICTIM),
        ("many-networks", traffic.VICTIM),
        ("unknown-recipients", traffic.PROBER),
    ]
    assert summary.findings[0].title.startswith(f"{traffic.GUESSER} failed to log in as 30 users, then logged in")
    begin, until = summary.findings[1].when or (0, 0)
    assert begin == traffic.MIDNIGHT + traffic.INCIDENT
    assert until == traffic.MIDNIGHT + traffic.INCIDENT + 3 * 3600


@pytest.mark.slow
def test_the_counts_are_those_of_the_day() -> None:
    summary, clients = day(), traffic.day()
    events = [decision for client in clients for decision in client.decisions]

    def count(event: str) -> int:
        return sum(decision["event"] == event for decision in events)

    assert summary.unknown == 0
    assert summary.totals["connections"] == len(clients) == 10_000
    assert summary.totals["denied"] == sum(client.denied is not None for client in clients)
    assert summary.totals["refused"] == count("refused")
    assert summary.totals["messages"] == count("queued")
    assert summary.totals["sessions"] == count("end")
    assert summary.totals["unfinished"] == count("aborted")
    assert summary.totals["relayed"] == sum(int(one["recipients"]) for one in events if "relay" in one and "qp" in one)
    assert summary.totals["logins"] + summary.totals["failed_logins"] == count("login")
    assert sum(bar.counters["connections"] for bar in summary.bars) == 10_000
    assert len(summary.bars) == 24
    assert rows(summary, "relayed")[0][:2] == (traffic.VICTIM, "login")
    assert rows(summary, "relayed")[1][:2] == (traffic.OFFICE, "address")
    assert sum(int(row[1]) for row in rows(summary, "durations")) == 10_000 - summary.totals["denied"]


@pytest.mark.slow
def test_text_and_json_say_the_same() -> None:
    text, objects = (day(as_json=as_json, sessions=2_000) for as_json in (False, True))
    assert text.totals == objects.totals
    assert text.bars == objects.bars
    assert [rounded(finding) for finding in text.findings] == [rounded(finding) for finding in objects.findings]
    assert text.sections == objects.sections


@pytest.mark.slow
def test_nothing_is_stolen_on_a_day_without_the_incident() -> None:
    assert {finding.kind for finding in day(incident=False, sessions=3_000).findings} == {"unknown-recipients"}
