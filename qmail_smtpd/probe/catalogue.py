"""The address probes, as data: every kind of sender with every kind of recipient. The other probes are in tricks.

NMAP and ABUSE_NET mark the sixteen probes of nmap's smtp-open-relay and the twenty of abuse.net.
"""

from qmail_smtpd.probe.probes import BELOW, DECIDES, HERE, OPAQUE, OUTSIDE, SENDER, UNCLEAR, Probe, Step

# name, argument of MAIL FROM (None: that of RCPT TO), source, reason
SENDERS: tuple[tuple[str, bytes | None, str, str], ...] = (
    ("outside", b"<{sender}@{out}>", "RFC 5321 3.9", "from outside to outside: the plain case"),
    ("null", b"<>", "RFC 5321 4.5.5", "a bounce has no sender to check"),
    (
        "bare",
        b"<{sender}>",
        "sendmail accept_unqualified_senders",
        "a sender without a domain, which may count as local",
    ),
    ("listed", b"<{sender}@{listed}>", "sendmail relay_local_from", "a sender at your own domain, which can be forged"),
    ("me", b"<{sender}@{me}>", "nmap smtp-open-relay", "the same with the server's own name"),
    ("literal", b"<{sender}@[{ip}]>", "nmap smtp-open-relay", "the same with the server's own address"),
    ("same", None, "RFC 5321 7.1", "sender and recipient are the same, which may count as mail to oneself"),
)

# fmt: off
# group, source, and for each kind: name, argument of RCPT TO, the meaning if it is accepted, reason
RECIPIENTS: tuple[tuple[str, str, tuple[tuple[str, bytes, str, str], ...]], ...] = (
    ("plain", "RFC 5321 3.9", (
        ("plain", b"<{user}@{out}>", OUTSIDE, "mail for a domain that is not yours"),
    )),
    ("percent", "RFC 1123 5.2.16", (
        ("percent", b"<{user}%{out}>", OPAQUE, "the percent hack, without a domain"),
        ("percent-listed", b"<{user}%{out}@{listed}>", OPAQUE, "the percent hack at a listed domain"),
        ("percent-me", b"<{user}%{out}@{me}>", OPAQUE, "the percent hack at the server's name"),
        ("percent-literal", b"<{user}%{out}@[{ip}]>", OPAQUE, "the percent hack at the server's address"),
        ("percent-quoted", b'<"{user}%{out}">', OPAQUE, "quotes may hide the percent from the check"),
        ("percent-quoted-listed", b'<"{user}%{out}"@{listed}>', OPAQUE, "the same at a listed domain"),
        ("percent-after", b"<{user}@{out}%{me}>", OUTSIDE, "the server's name where a suffix match finds it"),
        ("percent-after-listed", b"<{user}@{out}%{listed}>", OUTSIDE, "the same with a listed domain"),
        ("percent-twice", b"<{user}%{out}%{listed}@{me}>", OPAQUE, "the percent hack in two hops"),
    )),
    ("bang", "RFC 976", (
        ("bang", b"<{out}!{user}>", OPAQUE, "a UUCP path, without a domain"),
        ("bang-listed", b"<{out}!{user}@{listed}>", OPAQUE, "a UUCP path at a listed domain"),
        ("bang-me", b"<{out}!{user}@{me}>", OPAQUE, "a UUCP path at the server's name"),
        ("bang-literal", b"<{out}!{user}@[{ip}]>", OPAQUE, "a UUCP path at the server's address"),
        ("bang-quoted", b'<"{out}!{user}">', OPAQUE, "quotes may hide the bang from the check"),
        ("bang-twice", b"<{listed}!{out}!{user}>", OPAQUE, "a path whose first hop is listed"),
        ("bang-before", b"<{listed}!{user}@{out}>", OUTSIDE, "a listed host before the bang, another after the @"),
    )),
    ("decnet", "sendmail DECnet rules", (
        ("decnet", b"<{out}::{user}>", OPAQUE, "a DECnet address, without a domain"),
        ("decnet-listed", b"<{out}::{user}@{listed}>", OPAQUE, "a DECnet address at a listed domain"),
    )),
    ("route", "RFC 5321 C", (
        ("route-listed", b"<@{listed}:{user}@{out}>", OUTSIDE, "a source route by way of a listed domain"),
        ("route-me", b"<@{me}:{user}@{out}>", OUTSIDE, "a source route by way of the server's name"),
        ("route-literal", b"<@[{ip}]:{user}@{out}>", OUTSIDE, "a source route by way of the server's address"),
        ("route-twice", b"<@{listed},@{me}:{user}@{out}>", OUTSIDE, "a source route of two hops"),
    )),
    ("route", "RFC 821 3.6", (
        ("route-outside", b"<@{out}:{user}@{listed}>", OPAQUE, "following the route sends it outside first"),
        ("route-outside-twice", b"<@{listed},@{out}:{user}@{listed}>", OPAQUE, "the same as the second hop"),
    )),
    ("route", "qmail-smtpd.c addrparse", (
        ("route-only", b"<@{out}>", OPAQUE, "a route without its colon: a parser may skip all of it"),
        ("route-quoted", b'<"@{listed}:{user}"@{out}>', OUTSIDE, "a route in quotes"),
    )),
    ("quoted", "RFC 5321 4.1.2", (
        ("quoted", b'<"{user}@{out}">', OPAQUE, "all in quotes: no domain, or the wrong one"),
        ("quoted-listed", b'<"{user}@{out}"@{listed}>', OPAQUE, "an address in quotes at a listed domain"),
        ("quoted-me", b'<"{user}@{out}"@{me}>', OPAQUE, "an address in quotes at the server's name"),
        ("quoted-literal", b'<"{user}@{out}"@[{ip}]>', OPAQUE, "an address in quotes at the server's address"),
        ("quoted-user", b'<"{user}"@{out}>', OUTSIDE, "quotes around the local part"),
    )),
    ("quoted", "qmail-smtpd.c addrparse", (
        ("quoted-domain", b'<{user}@"{out}">', OUTSIDE, "quotes around the domain"),
    )),
    ("quoted", "qmail CHANGES 1998-05-28", (
        ("quoted-empty", b'<""@{out}>', OUTSIDE, "an old qmail-smtpd skipped the first byte"),
    )),
    ("quoted", "RFC 5321 4.1.2", (
        ("escaped", b"<{user}\\@{out}>", OPAQUE, "a backslash before the @"),
    )),
    ("double @", "nmap smtp-open-relay", (
        ("double-at", b"<{user}@{out}@{listed}>", OPAQUE, "which @ counts? here the last is a listed domain's"),
        ("double-at-me", b"<{user}@{out}@{me}>", OPAQUE, "the same with the server's name"),
        ("double-at-literal", b"<{user}@{out}@[{ip}]>", OPAQUE, "the same with the server's address"),
    )),
    ("double @", "abuse.net", (
        ("double-at-last", b"<{user}@{listed}@{out}>", OUTSIDE, "which @ counts? here the first is a listed domain's"),
        ("double-at-literal-last", b"<{user}@[{ip}]@{out}>", OUTSIDE, "the same with the server's address"),
    )),
    ("trailing", "abuse.net", (
        ("trailing-at", b"<{user}@{out}@>", OPAQUE, "an empty domain after the real one"),
    )),
    ("trailing", "RFC 1034 3.1", (
        ("trailing-dot", b"<{user}@{out}.>", OUTSIDE, "the same domain for the DNS, another for a list"),
    )),
    ("trailing", "RFC 5321 4.1.1", (
        ("trailing-blank", b"<{user}@{out} >", OUTSIDE, "a blank that a later mailer drops"),
    )),
    ("syntax", "RFC 5321 4.1.1.3", (
        ("no-brackets", b"{user}@{out}", OUTSIDE, "some servers check only what is in brackets"),
        ("blank-after-colon", b" <{user}@{out}>", OUTSIDE, "the blank is not allowed, but common"),
    )),
    ("syntax", "abuse.net", (
        ("double-brackets", b"<<{user}@{out}>>", OUTSIDE, "which bracket begins the address?"),
    )),
    ("syntax", "RFC 822 3.4.3", (
        ("comment", b"<{user}@{out}(@{listed})>", OUTSIDE, "a comment that ends like a listed domain"),
        ("comment-before", b"<({user}@{listed}){user}@{out}>", OUTSIDE, "a comment that looks like a listed address"),
    )),
    ("syntax", "sendmail(8)", (
        ("comma", b"<{user}@{out},{user}@{listed}>", OPAQUE, "two addresses to a mailer that reads a list"),
    )),
    ("syntax", "qmail-smtpd.c addrparse", (
        ("second-brackets", b"<{user}@{out}>,<{user}@{listed}>", UNCLEAR, "which of the two is checked?"),
    )),
    ("syntax", "RFC 3461 4.2", (
        ("parameter", b"<{user}@{out}> ORCPT=rfc822;{user}@{listed}", OUTSIDE, "a listed domain ends the line"),
    )),
    ("literal", "RFC 5321 4.1.3", (
        ("literal-outside", b"<{user}@[198.51.100.25]>", OUTSIDE, "an address literal of another host"),
        ("literal-bare", b"<{user}@198.51.100.25>", OUTSIDE, "the same without its brackets"),
    )),
    ("literal", "inet_aton(3)", (
        ("literal-decimal", b"<{user}@[3325256729]>", OUTSIDE, "the same as one number"),
        ("literal-hex", b"<{user}@[0xc6336419]>", OUTSIDE, "the same in hex"),
        ("literal-octal", b"<{user}@[0306.063.0144.031]>", OUTSIDE, "the same in octal"),
    )),
    ("literal", "RFC 4291 2.5.5.2", (
        ("literal-mapped", b"<{user}@[IPv6:::ffff:198.51.100.25]>", OUTSIDE, "the same as IPv6"),
    )),
    ("literal", "RFC 5321 4.1.3", (
        ("literal-ipv6", b"<{user}@[IPv6:2001:db8::25]>", OUTSIDE, "an IPv6 literal of another host"),
    )),
    ("domain", "RFC 5321 2.4", (
        ("mixed-case", b"<{user}@{OUT}>", OUTSIDE, "domains are case-insensitive"),
    )),
    ("domain", "Postfix parent_domain_matches_subdomains", (
        ("below", b"<{user}@relaytest.{listed}>", BELOW, "is every name below a listed domain accepted?"),
    )),
    ("domain", "CWE-20", (
        ("suffix", b"<{user}@relaytest{listed}>", OUTSIDE, "a suffix match that ignores the dot"),
        ("prefix", b"<{user}@{listed}.{out}>", OUTSIDE, "a match that ignores the end"),
    )),
    ("unicode", "UTS 46", (
        ("fullwidth-at", b"<{user}\xef\xbc\xa0{out}>", OPAQUE, "U+FF20, which some mailers fold to @"),
        ("fullwidth-percent", b"<{user}\xef\xbc\x85{out}@{listed}>", OPAQUE, "U+FF05, which some mailers fold to %"),
        ("fullwidth-dot", b"<{user}@{out}\xef\xbc\x8e{listed}>", OUTSIDE, "U+FF0E, which some mailers fold to a dot"),
    )),
    ("unicode", "RFC 3490 3.1", (
        ("ideographic-dot", b"<{user}@{out}\xe3\x80\x82{listed}>", OUTSIDE, "U+3002, which IDNA treats as a dot"),
    )),
    ("unicode", "RFC 6531", (
        ("8-bit", b"<\xe9@{out}>", OUTSIDE, "a local part that is not ASCII"),
        ("8-bit-domain", b"<{user}@{out}\xff>", OUTSIDE, "a domain that is not ASCII"),
    )),
    ("control", "CWE-158", (
        ("nul", b"<{user}@{out}\0@{listed}>", UNCLEAR, "C reads up to the NUL, the check reads on"),
    )),
    ("control", "qmail-queue(8)", (
        ("nul-recipient", b"<{user}@{out}\0T{user}@{listed}>", UNCLEAR, "a NUL ends a recipient of qmail's envelope"),
    )),
    ("control", "CWE-158", (
        ("nul-after", b"<{user}@{listed}\0@{out}>", HERE, "the same the other way round"),
    )),
    ("control", "CWE-93", (
        ("cr", b"<{user}@{out}\r@{listed}>", OPAQUE, "a CR alone, which some servers treat as a line end"),
    )),
    ("control", "RFC 5321 4.1.2", (
        ("tab", b"<{user}@{out}\t@{listed}>", OPAQUE, "a tab, which may end an address"),
    )),
    ("local", "qmail CHANGES 1998-05-28", (
        ("empty", b"<>", HERE, "an old qmail-smtpd crashed on it"),
    )),
    ("local", "RFC 5321 4.5.1", (
        ("no-domain", b"<{user}>", HERE, "only postmaster needs no domain"),
    )),
)
# fmt: on

# nmap 7.93, smtp-open-relay.nse: (sender, recipient) of its probes, in its order.
NMAP = (
    ("null", "plain"),
    ("outside", "plain"),
    ("me", "plain"),
    ("literal", "plain"),
    ("literal", "percent-literal"),
    ("literal", "percent-me"),
    ("literal", "quoted"),
    ("literal", "percent-quoted"),
    ("literal", "double-at-literal"),
    ("literal", "quoted-literal"),
    ("literal", "double-at-me"),
    ("literal", "route-literal"),
    ("literal", "route-me"),
    ("literal", "bang"),
    ("literal", "bang-literal"),
    ("literal", "bang-me"),
)

# The list of abuse.net and mail-abuse.org, in the order of its surviving transcripts. All have the null sender.
ABUSE_NET = (
    "plain",
    "percent",
    "trailing-at",
    "quoted",
    "percent-quoted",
    "percent-me",
    "percent-literal",
    "quoted-me",
    "double-at-me",
    "double-at-literal",
    "route-me",
    "route-literal",
    "bang",
    "bang-me",
    "bang-literal",
    "bang-quoted",
    "double-at-literal-last",
    "trailing-dot",
    "percent-after",
    "double-brackets",
)


def address_probes() -> list[Probe]:
    """Return all address probes, beginning with the plain recipient from every sender."""
    return [
        address_probe(sender, mail, Probe(name, group, source, why, reading), rcpt)
        for group, source, kinds in RECIPIENTS
        for name, rcpt, reading, why in kinds
        for sender, mail, _, _ in SENDERS
    ]


def address_probe(sender: str, mail: bytes | None, recipient: Probe, rcpt: bytes) -> Probe:
    """Return the probe of one sender and one kind of recipient.

    A probe with a NUL or CR has a connection of its own, because it may leave the server in an unknown state.
    """
    steps = (Step(b"MAIL FROM:" + (rcpt if mail is None else mail), SENDER), Step(b"RCPT TO:" + rcpt, DECIDES))
    return recipient._replace(
        name=f"{sender}/{recipient.name}",
        source=", ".join([recipient.source, *marks(sender, recipient.name)]),
        steps=steps,
        alone=b"\0" in rcpt or b"\r" in rcpt,
    )


def marks(sender: str, recipient: str) -> list[str]:
    """Return the names of the other tools' probes that are the same."""
    same = [f"nmap {NMAP.index((sender, recipient)) + 1}"] if (sender, recipient) in NMAP else []
    if sender == "null" and recipient in ABUSE_NET:
        same.append(f"abuse.net {ABUSE_NET.index(recipient) + 1}")
    return same
