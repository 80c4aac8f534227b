"""The probes that are no matter of addresses, as data: greetings, states, proxies, logins, TLS, the end of a message.

They ask with the plain recipient. A login is tried only with --auth, and a message sent only with --send.
"""

import base64
import secrets

from qmail_smtpd.probe.probes import (
    ASK,
    DIALOGUE,
    FORGED,
    LOGIN,
    MAY,
    OUTSIDE,
    SENDER,
    SMUGGLING,
    STARTTLS,
    Probe,
    Step,
)

MAIL = Step(b"MAIL FROM:<{sender}@{out}>", SENDER)
AGAIN = Step(b"MAIL FROM:<{sender}@{listed}>", MAY)
INSIDE = Step(b"RCPT TO:<{inside}>", MAY)
RCPT = Step(b"RCPT TO:<{user}@{out}>", ASK)
RSET = Step(b"RSET", MAY)
EHLO = Step(b"EHLO localhost", MAY)

HELLOS = (
    ("helo-listed", b"{listed}", "RFC 5321 4.1.4", "the name of a listed domain"),
    ("helo-me", b"{me}", "RFC 5321 4.1.4", "the server's own name"),
    ("helo-localhost", b"localhost", "RFC 5321 4.1.4", "the name that every host gives itself"),
    ("helo-literal", b"[127.0.0.1]", "RFC 5321 4.1.4", "the address that every host has"),
)

STATES = (
    ("second-rcpt", "RFC 5321 3.3", "is each recipient checked, or only the first?", (MAIL, INSIDE, RCPT)),
    ("rcpt-after-rset", "RFC 5321 4.1.1.5", "is what RSET forgets checked anew?", (MAIL, INSIDE, RSET, RCPT)),
    ("mail-after-rset", "RFC 5321 4.1.1.5", "is a new transaction checked anew?", (AGAIN, INSIDE, RSET, MAIL, RCPT)),
    (
        "second-mail",
        "RFC 5321 4.1.1.2",
        "does a second MAIL lose the checks?",
        (AGAIN, INSIDE, MAIL, RCPT),
    ),
    ("rcpt-after-helo", "RFC 5321 4.1.4", "a greeting in the middle forgets the sender", (MAIL, INSIDE, EHLO, RCPT)),
    ("no-mail", "RFC 5321 4.1.4", "a recipient before any sender", (RCPT,)),
)

PROXIES = (
    ("xclient", b"XCLIENT ADDR=127.0.0.1 NAME=localhost", "Postfix XCLIENT_README", "who may say whose client he is?"),
    ("xclient-login", b"XCLIENT ADDR=127.0.0.1 LOGIN=postmaster", "Postfix XCLIENT_README", "the same, logged in"),
    (
        "xforward",
        b"XFORWARD ADDR=127.0.0.1 NAME=localhost",
        "Postfix XFORWARD_README",
        "the same, for logs alone",
    ),
)
PROXY_LINE = b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 25\r\n"

# How a message may seem to end: RFC 5321 section 4.1.1.4 knows CRLF.CRLF alone.
ENDINGS = (
    ("lf-dot-lf", b"\n.\n"),
    ("lf-dot-crlf", b"\n.\r\n"),
    ("crlf-dot-lf", b"\r\n.\n"),
    ("cr-dot-lf", b"\r.\n"),
    ("lf-dot-cr", b"\n.\r"),
    ("cr-dot-cr", b"\r.\r"),
    ("cr-dot-crlf", b"\r.\r\n"),
    ("crlf-dot-cr", b"\r\n.\r"),
    ("cr-crlf-dot-cr-crlf", b"\r\r\n.\r\r\n"),
    ("nul-before", b"\r\n\0.\r\n"),
    ("nul-after", b"\r\n.\0\r\n"),
)


def trick_probes() -> list[Probe]:
    """All of them, those of the options included."""
    return [
        *(
            Probe(name, "helo", source, why, OUTSIDE, (MAIL, RCPT), alone=True, hello=hello)
            for name, hello, source, why in HELLOS
        ),
        *(Probe(name, "state", source, why, OUTSIDE, steps) for name, source, why, steps in STATES),
        *(
            Probe(name, "proxy", source, why, OUTSIDE, (Step(text, MAY), EHLO, MAIL, RCPT), alone=True)
            for name, text, source, why in PROXIES
        ),
        Probe(
            "proxy-line",
            "proxy",
            "HAProxy proxy-protocol.txt 2.1",
            "a proxy's first line, from who is none",
            OUTSIDE,
            (MAIL, RCPT),
            alone=True,
            preamble=PROXY_LINE,
        ),
        Probe(
            "starttls-injection",
            "tls",
            "CVE-2011-0411",
            "is what was sent before TLS obeyed within it?",
            FORGED,
            kind=STARTTLS,
            alone=True,
        ),
        *login_probes(),
        *smuggling_probes(),
    ]


def smuggling_probes() -> list[Probe]:
    """A message each, with an end that is none."""
    why = "does anything but CRLF.CRLF end a message?"
    return [
        Probe(
            f"smuggling/{name}",
            "smuggling",
            "CVE-2023-51764",
            why,
            FORGED,
            kind=SMUGGLING,
            alone=True,
            ending=ending,
            needs="send",
        )
        for name, ending in ENDINGS
    ]


def login_probes() -> list[Probe]:
    """Logins as nobody: a yes is a hole, and a no must not open anything."""
    user = b"relaytest-" + secrets.token_hex(8).encode()
    password = secrets.token_hex(16).encode()
    digest = user + b" " + secrets.token_hex(16).encode()  # 32 hexadecimal digits, as HMAC-MD5 has
    logins = (
        ("auth-plain", "RFC 4616", "any name, any password", (b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password),)),
        ("auth-login", "draft-murchison-sasl-login", "the same", (b"AUTH LOGIN", b64(user), b64(password))),
        ("auth-cram-md5", "RFC 2195", "any digest", (b"AUTH CRAM-MD5", b64(digest))),
        ("auth-no-password", "RFC 4616", "no password at all", (b"AUTH PLAIN " + b64(b"\0" + user + b"\0"),)),
        ("auth-nobody", "RFC 4616", "neither name nor password", (b"AUTH PLAIN " + b64(b"\0\0"),)),
        ("auth-empty", "RFC 4954 4", "an empty response, on which a known patch crashes", (b"AUTH PLAIN =",)),
        ("auth-cancelled", "RFC 4954 4", "a login that is given up", (b"AUTH LOGIN", b"*")),
    )
    return [
        Probe(name, "auth", source, why, OUTSIDE, dialogue(lines), alone=True, needs="auth")
        for name, source, why, lines in logins
    ]


def dialogue(lines: tuple[bytes, ...]) -> tuple[Step, ...]:
    """The steps of a login that must fail, and then the question."""
    later = (Step(line, DIALOGUE) for line in lines[1:])
    return (Step(lines[0], LOGIN), *later, MAIL, RCPT)


def b64(text: bytes) -> bytes:
    """As AUTH wants it."""
    return base64.b64encode(text)
