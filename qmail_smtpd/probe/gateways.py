"""This host's gateways and bridges, whose address every client has behind NAT or a published port: may they relay?

Behind rules, a client is tested for each of them that may relay. If the server is on this host, it is asked from each
bridge as well: a bridge's address is this host's own, a gateway's is not.
"""

from collections.abc import Sequence

from qmail_smtpd.probe.clients import Client
from qmail_smtpd.probe.connection import NoConnection
from qmail_smtpd.probe.judge import INSIDE, OPEN, plain_case_accepted
from qmail_smtpd.probe.network import Dialer
from qmail_smtpd.probe.probes import Probe
from qmail_smtpd.probe.report import Part
from qmail_smtpd.probe.rules import no_progress
from qmail_smtpd.probe.run import Plan, Run
from qmail_smtpd.probe.text import printable
from qmail_smtpd.probe.vantage import address_class
from tcprules import hostnet
from tcprules.lookup import Rules, judge

BRIDGES_MAX = 8  # addresses that a server is asked from
RELAYCLIENT = b"RELAYCLIENT"
MAY_RELAY = "may relay: behind NAT or a published port every client has such an address"
TEST = "To test what they may do: --as-outside"


def places() -> dict[str, tuple[str, bool]]:
    """Return what this host's gateways and bridges are called, and whether they are bridges, by address."""
    found = hostnet.read()
    return {
        place[0].decode(): (printable(hostnet.text(place)), place[1] == hostnet.BRIDGE)
        for place in (found[0] if found else ())
    }


def relaying_clients(rules: Rules) -> list[Client]:
    """Return the gateways and bridges that the rules let relay, as clients to test."""
    found = []
    for ip, (name, _) in places().items():
        verdict = judge(rules, ip.encode(), None, None)
        if not verdict.deny and any(variable == RELAYCLIENT for variable, _ in verdict.environment):
            found.append(Client(ip.encode(), reason=f"this host's network: {name}"))
    return found


def notes_on_clients(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return a remark about each tested client that is a gateway or bridge, and may relay."""
    known = places()
    named = {part.client: known[part.client][0] for part in parts if part.client in known and has_relayed(part)}
    return tuple(f"{name} {MAY_RELAY}. {TEST} --client {client}" for client, name in named.items())


def note_on_client(client: str, only: Part) -> tuple[str, ...]:
    """Return a remark if relaytest itself has connected from a gateway's or bridge's address, and may relay."""
    known = places()
    return (f"{known[client][0]} {MAY_RELAY}. {TEST}",) if client in known and has_relayed(only) else ()


def has_relayed(part: Part) -> bool:
    """Whether the server has accepted the plain case."""
    return part.word in (INSIDE, OPEN) and plain_case_accepted(part.results)


def ask_bridges(dialer: Dialer, plan: Plan, plain: Sequence[Probe], listed: Sequence[bytes]) -> tuple[str, ...]:
    """Ask a server on this host from the bridges' addresses of its family, and return what was found, a remark each."""
    server, port, client = dialer.peers
    if not (client == server or address_class(server) == "loopback"):
        return ()
    bridges = [
        (ip, name)
        for ip, (name, is_bridge) in places().items()
        if is_bridge and ip != client and (":" in ip) == (":" in server)
    ]
    return tuple(ask_from(ip, name, server, port, plan, plain, listed) for ip, name in bridges[:BRIDGES_MAX])


def ask_from(
    ip: str, name: str, server: str, port: int, plan: Plan, plain: Sequence[Probe], listed: Sequence[bytes]
) -> str:
    """Ask from this address, and return the remark."""
    try:
        dialer = Dialer(server, port, ip, plan.pace.timeout)
        dialer.settle()
        found = Run(dialer, plan).examine(plain, listed, no_progress)
    except (OSError, NoConnection) as error:
        why = getattr(error, "strerror", None) or str(error)
        return f"not asked from {name}: {printable(why.encode('utf-8', 'replace'))}"
    if plain_case_accepted(found.results):
        return f"{name} {MAY_RELAY}. {TEST} --from-ip {ip}"
    if all(control.passed for control in found.controls):
        return f"asked from {name} as well: refused"
    return f"asked from {name} as well: cannot tell"
