"""--listen: a real scrape of the counters while the log grows and is rotated; labels that no client can choose."""

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qmail_smtpd.report.tally import GROUPS
from tests.kit.logs import traffic
from tests.kit.server import PATIENCE, until
from tests.kit.support import ROOT, peer, script

ENVIRON = {"PATH": os.environ["PATH"], "TZ": "UTC"}
QUEUED = (
    b"qmail-smtpd: event=queued pid=1 ip=192.0.2.1 helo=x sender=a@b recipients=3 bytes=7 qp=1 relay=login user=joe\n"
)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Monitor:
    """A relayreport that listens."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr
        self.process = process
        line = process.stderr.readline()
        match = re.fullmatch(rb"relayreport: listening on 127\.0\.0\.1:(\d+)\n", line)
        assert match, line
        self.url = f"http://127.0.0.1:{int(match[1])}/metrics"

    def samples(self) -> Samples:
        with urllib.request.urlopen(self.url, timeout=PATIENCE) as answer:
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return {(one.name, tuple(sorted(one.labels.items()))): one.value for each in families for one in each.samples}

    def messages(self) -> float:
        return self.samples()["relayreport_messages_total", ()]

    def wait_for(self, messages: int) -> None:
        until(lambda: self.messages() >= messages, self.messages)
        assert self.messages() == messages


@contextmanager
def listening(*words: object, stdin: int = subprocess.DEVNULL) -> Iterator[Monitor]:
    command = [script("relayreport"), "--listen", "127.0.0.1:0", *map(str, words)]
    process = subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, env=ENVIRON)
    try:
        yield Monitor(process)
    finally:
        process.kill()
        process.communicate()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_is_added_counts_and_what_was_there_does_not(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(QUEUED * 5)
    with listening(log) as monitor:
        assert monitor.messages() == 0
        append(log, QUEUED[:20])
        append(log, QUEUED[20:] + QUEUED)
        monitor.wait_for(2)
        samples = monitor.samples()
        assert samples["relayreport_relayed_recipients_total", (("by", "login"),)] == 6
        assert samples["relayreport_bytes_total", ()] == 14


def test_logrotate_moves_and_truncates(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(QUEUED * 9)
    with listening(log) as monitor:
        log.rename(tmp_path / "log.1")
        append(tmp_path / "log.1", QUEUED)
        append(log, QUEUED * 2)
        monitor.wait_for(3)
        log.write_bytes(QUEUED)  # copytruncate
        monitor.wait_for(4)


def test_a_directory_is_followed_over_several_rotations(tmp_path: Path) -> None:
    (tmp_path / "@400000006b0546a000000000.s").write_bytes(QUEUED * 100)
    current = tmp_path / "current"
    current.write_bytes(QUEUED * 5)
    with listening(tmp_path) as monitor:
        append(current, QUEUED)
        for number in range(1, 4):  # faster than it looks
            current.rename(tmp_path / f"@400000006b0546a{number}00000000.s")
            current.write_bytes(QUEUED * 10)
        monitor.wait_for(31)


def test_since_reads_the_past_too(tmp_path: Path) -> None:
    stamp = b"@400000006b0546a100000000 "
    (tmp_path / "@400000006b0546a000000000.s").write_bytes((stamp + QUEUED) * 2)
    (tmp_path / "current").write_bytes((stamp + QUEUED) * 3)
    with listening("--since", "2026-11-24", tmp_path) as monitor:
        monitor.wait_for(5)
        append(tmp_path / "current", stamp + QUEUED)
        monitor.wait_for(6)


def test_standard_input_is_read_to_its_end() -> None:
    read, write = os.pipe()
    with listening(stdin=read) as monitor:
        os.close(read)
        os.write(write, QUEUED)
        monitor.wait_for(1)
        os.close(write)
        assert monitor.process.wait(PATIENCE) == 0


def test_a_directory_that_vanishes_is_a_clear_line(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    (directory / "current").touch()
    with listening(directory) as monitor:
        (directory / "current").unlink()
        directory.rmdir()
        assert monitor.process.wait(PATIENCE) == 111
        assert monitor.process.stderr
        line = f"relayreport: fatal: unable to follow {directory}/current: file does not exist\n"
        assert monitor.process.stderr.read().decode() == line


@pytest.mark.peer
def test_multilog_rotates_and_nothing_is_lost(tmp_path: Path) -> None:
    peer("/usr/bin/multilog")
    directory = tmp_path / "log"
    command = ["multilog", "t", "s4096", "n1000", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as multilog:
        assert multilog.stdin
        until((directory / "current").exists)
        with listening(directory) as monitor:
            for _ in range(40):
                multilog.stdin.write(QUEUED * 25)
                multilog.stdin.flush()
            monitor.wait_for(1000)
            assert len(list(directory.glob("@*.s"))) > 20
            multilog.stdin.close()


def test_no_client_can_choose_a_label(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    hostile = b"".join(
        b"qmail-smtpd: event=%b pid=1 ip=%d helo=h%d reason=r%d user=u%d tls=t%d result=no recipients=1\n"
        % (event, *[number] * 5)
        for number in range(200)
        for event in (b"refused", b"login", b"queued", b"end", b"aborted", b"e%d" % number)
    )
    with listening(log) as monitor:
        before = set(monitor.samples())
        append(log, hostile + QUEUED)
        monitor.wait_for(201)
        assert set(monitor.samples()) == before
        assert monitor.samples()["relayreport_refused_total", (("reason", "other"),)] == 200


def test_every_reason_of_the_documentation_has_a_counter() -> None:
    (row,) = re.findall(r"^\| `refused` \| refusals \| (.*) \|$", (ROOT / "docs/qmail-smtpd.md").read_text(), re.M)
    words = {word.partition(":")[0] for word in re.findall(r"`([a-z:]+)`", row)}
    assert len(words) > 20
    assert {word.encode() for word in words} <= set(GROUPS[b"refused"])


def test_the_counters_of_a_day(tmp_path: Path) -> None:
    clients = traffic.day(400)
    log = tmp_path / "log"
    log.touch()
    with listening(log) as monitor:
        append(log, traffic.text(clients))
        events = [decision["event"] for client in clients for decision in client.decisions]
        monitor.wait_for(events.count("queued"))
        samples = monitor.samples()
        denied = sum(client.denied is not None for client in clients)
        assert samples["relayreport_connections_total", (("result", "denied"),)] == denied
        assert samples["relayreport_connections_total", (("result", "served"),)] == len(clients) - denied
        assert samples["relayreport_connection_seconds_count", ()] == len(clients) - denied
        assert sum(
            value for (name, _), value in samples.items() if name == "relayreport_refused_total"
        ) == events.count("refused")
        assert samples["relayreport_findings", (("kind", "guessed-login"),)] == 1


@pytest.mark.parametrize(
    "address", ["9100", ":9100", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "[::1]", "a..b:1"]
)
def test_an_address_that_is_none_is_a_clear_line(address: str) -> None:
    done = subprocess.run([script("relayreport"), "--listen", address], stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 100
    assert b"is not like 127.0.0.1:9100 or [::1]:9100" in done.stderr


def test_a_name_that_does_not_resolve_is_a_clear_line() -> None:
    command = [script("relayreport"), "--listen", "no-such-host.invalid:9100"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stderr) == (111, b"relayreport: fatal: no IP address for no-such-host.invalid\n")


def test_a_port_in_use_is_a_clear_line(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    with listening(tmp_path / "log") as monitor:
        address = monitor.url.split("/")[2]
        command = [script("relayreport"), "--listen", address, str(tmp_path / "log")]
        done = subprocess.run(command, capture_output=True)
    line = f"relayreport: fatal: unable to listen on {address}: address already used\n"
    assert (done.returncode, done.stderr.decode()) == (111, line)
