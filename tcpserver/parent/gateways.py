"""The addresses that every client has behind NAT or a published port: this host's gateways and bridges.

They are looked for once, at the start. Judges no client: warns if such an address may relay, and returns the marks.
"""

from tcprules import hostnet, lookup
from tcpserver.settings import octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tcprules.hostnet import Place
    from tcpserver.log import Lines
    from tcpserver.parent.journal import Journal
    from tcpserver.settings import Settings

SHOWN = 4  # addresses that the warning names
RELAYCLIENT = b"RELAYCLIENT"


def look(settings: "Settings", journal: "Journal", lines: "Lines") -> dict[bytes, bytes]:
    """The value of TCPREMOTEVIA for each such address. Warn, unless -q, if the rules let some of them relay."""
    found = hostnet.read()
    places = found[0] if found else []
    if places and settings.verbosity:
        may = relaying(places, settings)
        if may:
            journal.write(lines.warning(warning(may)))
    return {ip: kind for ip, kind, _ in places}


def relaying(places: "list[Place]", settings: "Settings") -> "list[Place]":
    """The addresses that the rules let relay, without those whose clients a PROXY header names.

    Empty if the rules cannot be read: then no client is served.
    """
    try:
        with lookup.open_rules(octets(settings.rules or "")) as rules:
            may = [place for place in places if may_relay(rules, place[0])]
    except OSError:
        return []
    if may and settings.proxy_from:
        from tcpserver.parent.proxy_networks import Networks

        proxies = Networks([octets(text) for text in settings.proxy_from])
        may = [place for place in may if not proxies.contain(place[0])]
    return may


def may_relay(rules: lookup.Rules, ip: bytes) -> bool:
    """Whether the rules let a client relay that has this address, and no name."""
    verdict = lookup.judge(rules, ip, None, None)
    return not verdict.deny and any(name == RELAYCLIENT for name, _ in verdict.environment)


def warning(places: "list[Place]") -> bytes:
    """The text of the warning about addresses that may relay."""
    names = b", ".join(map(hostnet.text, places[:SHOWN]))
    more = b" and %d more" % (len(places) - SHOWN) if len(places) > SHOWN else b""
    return b"%b%b may relay: behind NAT or a published port every client has such an address" % (names, more)
