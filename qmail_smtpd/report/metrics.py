"""The counters for Prometheus, by prometheus-client. No label has a value that a client can choose."""

import threading
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from qmail_smtpd.report import tally as counted
from qmail_smtpd.report.findings import KINDS, findings
from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.tally import BOUNDS, Tally

PREFIX = "relayreport_"
PLAIN = (
    ("messages", "messages queued", counted.MESSAGES),
    ("recipients", "recipients of queued messages", counted.RECIPIENTS),
    ("bytes", "bytes of queued messages", counted.BYTES),
)
LABELLED = (
    ("denied", "connections denied by rules and limits", "reason", b"denied"),
    ("refused", "refused commands and sessions", "reason", b"refused"),
    ("sessions", "ended sessions of qmail-smtpd", "tls", b"sessions"),
    ("relayed_recipients", "recipients of clients that may relay", "by", b"relayed"),
    ("unfinished_messages", "messages that were not queued", "result", b"unfinished"),
)


class Counters(Collector):
    """What a scrape sees. The lock protects the tally, which another thread changes."""

    def __init__(self, tally: Tally, readers: list[Reader], lock: threading.Lock) -> None:
        self.tally = tally
        self.readers = readers
        self.lock = lock

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        with self.lock:
            yield from list(self.metrics())

    def metrics(self) -> Iterator[Metric]:
        """Yield all metrics. The lock is held."""
        total = self.tally.total
        connections = CounterMetricFamily(f"{PREFIX}connections", "connections by tcpserver's log", labels=["result"])
        connections.add_metric(["served"], total[counted.CONNECTIONS] - total[counted.DENIED])
        connections.add_metric(["denied"], total[counted.DENIED])
        yield connections
        for name, text, counter in PLAIN:
            yield CounterMetricFamily(PREFIX + name, text, value=total[counter])
        for name, text, label, group in LABELLED:
            family = CounterMetricFamily(PREFIX + name, text, labels=[label])
            for value, count in self.tally.exact[group].items():
                family.add_metric([value.decode()], count)
            yield family
        logins = CounterMetricFamily(
            f"{PREFIX}logins", "logins by SMTP AUTH, and failed ones also by POP3", labels=["result"]
        )
        logins.add_metric(["yes"], total[counted.LOGINS])
        logins.add_metric(["no"], total[counted.FAILED])
        yield logins
        yield self.durations()
        lines = CounterMetricFamily(f"{PREFIX}lines", "lines of the log", labels=["kind"])
        unknown = sum(reader.unknown for reader in self.readers)
        lines.add_metric(["known"], sum(reader.lines for reader in self.readers) - unknown)
        lines.add_metric(["unknown"], unknown)
        yield lines
        yield self.wrong()

    def durations(self) -> HistogramMetricFamily:
        """Return the time of connections."""
        sums = [sum(self.tally.durations[: place + 1]) for place in range(len(BOUNDS) + 1)]
        bounds = [*(f"{bound}.0" for bound in BOUNDS), "+Inf"]
        family = HistogramMetricFamily(f"{PREFIX}connection_seconds", "time of connections")
        family.add_metric([], list(zip(bounds, sums, strict=True)), self.tally.seconds)
        return family

    def wrong(self) -> GaugeMetricFamily:
        """Return how many findings of each kind there are."""
        found = [finding.kind for finding in findings(self.tally)]
        family = GaugeMetricFamily(f"{PREFIX}findings", "what looks wrong, since the start", labels=["kind"])
        for kind in KINDS:
            family.add_metric([kind], found.count(kind))
        return family


def serve(host: str, port: int, counters: Counters) -> int:
    """Answer scrapes in another thread. Return the port. Raise OSError."""
    registry = CollectorRegistry()
    registry.register(counters)
    started = start_http_server(port, host, registry)
    return int(started[0].server_port) if started else port  # Debian 12's 0.16 returns None
