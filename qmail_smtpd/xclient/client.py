"""The environment of a client that a proxy speaks for, made from that of the proxy's own connection.

It is what tcpserver would have set for the client, as far as that can be known here: docs/qmail-smtpd.md says what can
be undone. Reads nothing but the rules that $XCLIENTRULES names.
"""

from qmail_smtpd.smtp.address import ipv6_octets, literal_octets
from qmail_smtpd.smtp.replies import CONTROLS_UNREADABLE
from qmail_smtpd.smtp.settings import Unreadable
from tcprules.lookup import canonical, ipv4, judge, open_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.xclient import Attributes
    from tcprules.lookup import Rules, Verdict

    Environ = dict[bytes, bytes]

RULES = b"XCLIENTRULES"
REVOKED = (b"RELAYCLIENT", b"RELAY_USER", b"RBLSMTPD")  # rules set the first and the last, relay-check all three
UNKNOWN = b"unknown"  # the word of qmail-smtpd.c: no address, so that only the default rule applies
VARIABLES = (
    (b"ADDR", b"TCPREMOTEIP"),
    (b"NAME", b"TCPREMOTEHOST"),
    (b"PORT", b"TCPREMOTEPORT"),
    (b"DESTADDR", b"TCPLOCALIP"),
    (b"DESTPORT", b"TCPLOCALPORT"),
)
# Variables about the proxy that are wrong for its client.
OF_THE_PROXY = (b"TCPREMOTEHOST", b"TCPREMOTEPORT", b"TCPREMOTEINFO", b"TCPREMOTEVIA")
TCP_NAMES = (b"LOCALIP", b"LOCALPORT", b"LOCALHOST", b"REMOTEIP", b"REMOTEPORT", b"REMOTEHOST", b"REMOTEINFO")


def canonical_address(text: bytes) -> bytes | None:
    """Return the text of an IPv4 or IPv6 address as tcpserver writes it. None for any other text."""
    if b":" in text:
        return canonical(text)
    return None if ipv4(text) is None else text


def octets(address: bytes | None) -> bytes | None:
    """Return the four or sixteen octets of an address, None for other text and for None."""
    if address is None:
        return None
    return ipv6_octets(address) if b":" in address else literal_octets(b"@[%b]" % address)


def environment(proxy: "Environ", attributes: "Attributes") -> "tuple[Environ, bool]":
    """Return the client's environment, and whether the rules allow the client.

    `proxy` is the environment of the proxy's connection as it began. Raises Unreadable for the rules.
    """
    environ = {name: value for name, value in proxy.items() if name not in REVOKED}
    if RULES not in proxy:
        set_facts(environ, attributes)
        return environ, True
    try:
        rules = open_rules(proxy[RULES])
        try:
            undo(environ, verdict(rules, proxy))
            set_facts(environ, attributes)
            rule = verdict(rules, environ)
        finally:
            rules.close()
    except OSError as error:
        raise unreadable(error) from error
    environ.update(rule.environment)
    return environ, not rule.deny


def undo(environ: "Environ", rule: "Verdict") -> None:
    """Unset what the rule of the proxy has set.

    The values before it are not known. A session cannot leave its home for the default one, which might not exist: an
    open relay is a home without rcpthosts.
    """
    for name, _ in rule.environment:
        if name != b"QMAILHOME":
            environ.pop(name, None)


def set_facts(environ: "Environ", attributes: "Attributes") -> None:
    """Set the UCSPI variables as tcpserver/environ.py does for a client with these attributes."""
    if b"ADDR" in attributes:
        set_proxy(environ)
        if attributes[b"ADDR"] is None:
            environ[b"NORELAY"] = b"1"  # as from tcpserver for a client that its proxy does not name
    for attribute, variable in VARIABLES:
        if attribute in attributes:
            value = attributes[attribute]
            if value is None:
                environ.pop(variable, None)
            else:
                environ[variable] = value
    ipv6 = b":" in environ.get(b"TCPREMOTEIP", b"")
    environ[b"PROTO"] = b"TCP6" if ipv6 else b"TCP"
    environ.pop(b"TCP6INTERFACE", None)
    for name in TCP_NAMES:
        environ.pop(b"TCP6" + name, None)
        if ipv6 and b"TCP" + name in environ:
            environ[b"TCP6" + name] = environ[b"TCP" + name]


def set_proxy(environ: "Environ") -> None:
    """Move what is known of the proxy's end to the variables that tcpserver --proxy-from has for it."""
    for name, variable in ((b"PROXYREMOTEIP", b"TCPREMOTEIP"), (b"PROXYREMOTEPORT", b"TCPREMOTEPORT")):
        environ.pop(name, None)
        if variable in environ:
            environ[name] = environ[variable]
    for name in OF_THE_PROXY:
        environ.pop(name, None)


def verdict(rules: "Rules", environ: "Environ") -> "Verdict":
    """Return the rules' verdict about the client of this environment. Raises OSError.

    A client without an address has only the default rule: a name that belongs to no address proves nothing.
    """
    if b"TCPREMOTEIP" not in environ:
        return judge(rules, UNKNOWN, None, None)
    return judge(rules, environ[b"TCPREMOTEIP"], environ.get(b"TCPREMOTEHOST"), environ.get(b"TCPREMOTEINFO"))


def unreadable(error: OSError) -> Unreadable:
    """Return the exception for rules that cannot be read: the client may be one whom they deny."""
    from tcprules.strerr import reason

    return Unreadable(CONTROLS_UNREADABLE, b"unable to read $XCLIENTRULES: " + reason(error).encode())
