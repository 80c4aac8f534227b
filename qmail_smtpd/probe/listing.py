"""The catalogue as text, for --list. Pure."""

from collections.abc import Iterator, Sequence

from qmail_smtpd.probe.catalogue import RECIPIENTS, SENDERS, marks
from qmail_smtpd.probe.probes import OPAQUE, Probe
from qmail_smtpd.probe.text import printable

NEEDS = {"": "", "auth": " (with --auth)", "send": " (with --send)"}


def listing(tricks: Sequence[Probe]) -> Iterator[str]:
    """Yield a line for each kind: name, source, reason. Every sender is combined with every recipient."""
    yield "Senders, each combined with every recipient, as SENDER/RECIPIENT:"
    for name, mail, source, why in SENDERS:
        yield line(name, source, f"{why}: MAIL FROM:{'the same' if mail is None else printable(mail)}")
    yield "Recipients:"
    for _, source, kinds in RECIPIENTS:
        for name, rcpt, reading, why in kinds:
            also_known_as = [f"{mark} ({sender})" for sender, *_ in SENDERS for mark in marks(sender, name)]
            needs = ", to be decided by --send" if reading == OPAQUE else ""
            yield line(name, ", ".join([source, *also_known_as]), f"{why}{needs}: RCPT TO:{printable(rcpt)}")
    yield "Other probes, with the plain recipient:"
    for probe in tricks:
        yield line(probe.name, probe.source, probe.why + NEEDS[probe.needs])


def line(name: str, source: str, why: str) -> str:
    return f"  {name}: {source}: {why}"
