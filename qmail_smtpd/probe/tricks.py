"""The probes that are not about addresses, as data: HELO, session states, proxies, logins, TLS, the end of a message.

They use the plain recipient. Logins are tried only with --auth, and messages are sent only with --send.
"""

import base64
import secrets

from qmail_smtpd.probe.probes import (
    DECIDES,
    DIALOGUE,
    FORGED,
    LOGIN,
    NOBODY,
    OPTIONAL,
    OUTSIDE,
    SENDER,
    SMUGGLING,
    STARTTLS,
    Probe,
    Step,
)

MAIL = Step(b"MAIL FROM:<{sender}@{out}>", SENDER)
AGAIN = Step(b"MAIL FROM:<{sender}@{listed}>", OPTIONAL)
INSIDE = Step(b"RCPT TO:<{inside}>", OPTIONAL)
RCPT = Step(b"RCPT TO:<{user}@{out}>", DECIDES)
RSET = Step(b"RSET", OPTIONAL)
EHLO = Step(b"EHLO localhost", OPTIONAL)

HELLOS = (
    ("helo-listed", b"{listed}", "RFC 5321 4.1.4", "the name of a listed domain"),
    ("helo-me", b"{me}", "RFC 5321 4.1.4", "the server's own name"),
    ("helo-localhost", b"localhost", "RFC 5321 4.1.4", "the name that every host gives itself"),
    ("helo-literal", b"[127.0.0.1]", "RFC 5321 4.1.4", "the loopback address, which every host has"),
)

STATES = (
    ("second-rcpt", "RFC 5321 3.3", "is each recipient checked, or only the first?", (MAIL, INSIDE, RCPT)),
    ("rcpt-after-rset", "RFC 5321 4.1.1.5", "is the recipient checked again after RSET?", (MAIL, INSIDE, RSET, RCPT)),
    ("mail-after-rset", "RFC 5321 4.1.1.5", "is a new transaction checked again?", (AGAIN, INSIDE, RSET, MAIL, RCPT)),
    (
        "second-mail",
        "RFC 5321 4.1.1.2",
        "does a second MAIL skip the checks?",
        (AGAIN, INSIDE, MAIL, RCPT),
    ),
    ("rcpt-after-helo", "RFC 5321 4.1.4", "a second greeting resets the sender", (MAIL, INSIDE, EHLO, RCPT)),
    ("no-mail", "RFC 5321 4.1.4", "a recipient before any sender", (RCPT,)),
)

PROXIES = (
    ("xclient", b"XCLIENT ADDR=127.0.0.1 NAME=localhost", "Postfix XCLIENT_README", "may clients claim any address?"),
    ("xclient-login", b"XCLIENT ADDR=127.0.0.1 LOGIN=postmaster", "Postfix XCLIENT_README", "the same, logged in"),
    (
        "xforward",
        b"XFORWARD ADDR=127.0.0.1 NAME=localhost",
        "Postfix XFORWARD_README",
        "the same, meant for logs only",
    ),
)
PROXY_LINE = b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 25\r\n"

# False ends of a message: the only true one is CRLF.CRLF (RFC 5321 section 4.1.1.4).
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
TRUE_END = ("crlf-dot-crlf", b"\r\n.\r\n")  # of DATA, but not of a chunk


def trick_probes() -> list[Probe]:
    """Return all these probes, including those that an option enables."""
    return [
        *(
            Probe(name, "helo", source, why, OUTSIDE, (MAIL, RCPT), alone=True, hello=hello)
            for name, hello, source, why in HELLOS
        ),
        *(Probe(name, "state", source, why, OUTSIDE, steps) for name, source, why, steps in STATES),
        *(
            Probe(name, "proxy", source, why, OUTSIDE, (Step(text, OPTIONAL), EHLO, MAIL, RCPT), alone=True)
            for name, text, source, why in PROXIES
        ),
        Probe(
            "proxy-line",
            "proxy",
            "HAProxy proxy-protocol.txt 2.1",
            "a proxy's first line, from a client that is no proxy",
            OUTSIDE,
            (MAIL, RCPT),
            alone=True,
            preamble=PROXY_LINE,
        ),
        Probe(
            "starttls-injection",
            "tls",
            "CVE-2011-0411",
            "is a command sent before TLS executed within it?",
            FORGED,
            kind=STARTTLS,
            alone=True,
        ),
        unknown_probe(),
        *login_probes(),
        *smuggling_probes(),
    ]


def unknown_probe() -> Probe:
    """Return the probe with a recipient that does not exist: its name is new in each run."""
    nobody = b"RCPT TO:<relaytest-" + secrets.token_hex(8).encode() + b"@{listed}>"
    why = "does it accept mail that it must return to a sender who may be forged?"
    return Probe("unknown-recipient", "unknown", "RFC 5321 3.6.2", why, NOBODY, (MAIL, Step(nobody, DECIDES)))


def smuggling_probes() -> list[Probe]:
    """Return the smuggling probes: a message each, with a false end, by DATA and by BDAT."""
    why = "does anything but CRLF.CRLF end a message?"
    by_data = [
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
    why = "does anything in a chunk end it?"
    by_bdat = [
        probe._replace(name=f"smuggling/bdat-{name}", source="RFC 3030 2", why=why, ending=ending, chunked=True)
        for (name, ending), probe in zip((*ENDINGS, TRUE_END), [*by_data, by_data[0]], strict=True)
    ]
    return by_data + by_bdat


def login_probes() -> list[Probe]:
    """Return logins with invented names: an acceptance is a fault, and a refusal must not allow relaying."""
    user = b"relaytest-" + secrets.token_hex(8).encode()
    password = secrets.token_hex(16).encode()
    digest = user + b" " + secrets.token_hex(16).encode()  # 32 hexadecimal digits, as HMAC-MD5 has
    logins = (
        ("auth-plain", "RFC 4616", "any name, any password", (b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password),)),
        ("auth-login", "draft-murchison-sasl-login", "the same", (b"AUTH LOGIN", b64(user), b64(password))),
        ("auth-cram-md5", "RFC 2195", "any digest", (b"AUTH CRAM-MD5", b64(digest))),
        ("auth-no-password", "RFC 4616", "no password at all", (b"AUTH PLAIN " + b64(b"\0" + user + b"\0"),)),
        ("auth-nobody", "RFC 4616", "neither name nor password", (b"AUTH PLAIN " + b64(b"\0\0"),)),
        ("auth-empty", "RFC 4954 4", "an empty response, which crashes a known patch", (b"AUTH PLAIN =",)),
        ("auth-cancelled", "RFC 4954 4", "a cancelled login", (b"AUTH LOGIN", b"*")),
    )
    return [
        Probe(name, "auth", source, why, OUTSIDE, dialogue(lines), alone=True, needs="auth")
        for name, source, why, lines in logins
    ]


def dialogue(lines: tuple[bytes, ...]) -> tuple[Step, ...]:
    """Return the steps of a login that must fail, followed by the plain case."""
    later = (Step(line, DIALOGUE) for line in lines[1:])
    return (Step(lines[0], LOGIN), *later, MAIL, RCPT)


def b64(text: bytes) -> bytes:
    """Return the text in the encoding of AUTH."""
    return base64.b64encode(text)
