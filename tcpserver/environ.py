"""The environment of a connection's program, from the facts: {b"TCPREMOTEIP": b"192.0.2.1", b"TCPREMOTEHOST": None}.

None means unset: an inherited variable of that name is removed. Pure.
"""

SERVICE_NAMES = (  # set by the service manager for tcpserver's own process (the table is in docs/tcpserver.md)
    b"LISTEN_FDS",
    b"LISTEN_PID",
    b"LISTEN_PIDFDID",
    b"LISTEN_FDNAMES",
    b"NOTIFY_SOCKET",
    b"WATCHDOG_PID",
    b"WATCHDOG_USEC",
    b"SYSTEMD_EXEC_PID",
)

# ld.so(8): look every C function up at the start. Otherwise each forked child looks up what the parent has not called
# yet: 20 pages of memory. The value shows that cli.py has set it, not the administrator.
BIND_NOW = b"LD_BIND_NOW"
OURS = b"tcpserver"

# With these the allocator overwrites what is freed, so that no password is there for the next client: Python takes
# its memory from malloc (PYTHONMALLOC), and glibc fills it when it is freed (mallopt(3), M_PERTURB), except in a
# thread's cache, which is switched off. cli.py sets both for a server that loads a program that sees passwords, if the
# administrator has set neither.
WIPING = {b"PYTHONMALLOC": b"malloc", b"GLIBC_TUNABLES": b"glibc.malloc.perturb=173:glibc.malloc.tcache_count=0"}

IPV6_NAMES = (  # ucspi-tcp-ipv6's; programs that read ${PROTO}REMOTEIP (mailfront) believe an inherited one
    b"TCP6LOCALIP",
    b"TCP6LOCALPORT",
    b"TCP6LOCALHOST",
    b"TCP6REMOTEIP",
    b"TCP6REMOTEPORT",
    b"TCP6REMOTEHOST",
    b"TCP6REMOTEINFO",
    b"TCP6INTERFACE",
)
CONNECTION = b"TCPCONNECTION"  # which of the server's connections it is, for other programs' logs
PROXY_NAMES = (b"PROXYREMOTEIP", b"PROXYREMOTEPORT", b"NORELAY")  # only for clients of --proxy-from
VIA = b"TCPREMOTEVIA"  # only for a client that has the address of this host's gateway or bridge
NOT_PASSED_ON = frozenset((*SERVICE_NAMES, *IPV6_NAMES, *PROXY_NAMES, VIA, CONNECTION))


def base(inherited: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What every program's environment starts from."""
    passed_on = {name: value for name, value in inherited.items() if name not in NOT_PASSED_ON}
    if passed_on.get(BIND_NOW) == OURS:
        del passed_on[BIND_NOW]
    if is_wiping(passed_on):
        for name in WIPING:
            del passed_on[name]
    return passed_on


def is_wiping(inherited: dict[bytes, bytes]) -> bool:
    """Whether cli.py has set WIPING. In /proc/self/environ glibc has ended the value at its first colon."""
    return all(inherited.get(name, b"").startswith(value.partition(b":")[0]) for name, value in WIPING.items())


class Facts:
    """Both ends of a connection: addresses as text, ports, names and ident's answer (None: not known, or not asked).

    `interface` is the name of the network interface of a link-local IPv6 client. `proxy_ip` and `proxy_port` are the
    proxy's end of a connection with a PROXY header, which names the client's ends. With `never_relays` it names none:
    the ends are those of the connection, and its client may not relay. `via` is `gateway` or `bridge` for a client that
    has the address of this host's gateway or bridge. `connection` is the name of this connection in a JSON log.
    """

    __slots__ = (
        "connection",
        "interface",
        "local_host",
        "local_ip",
        "local_port",
        "never_relays",
        "proxy_ip",
        "proxy_port",
        "remote_host",
        "remote_info",
        "remote_ip",
        "remote_port",
        "via",
    )

    def __init__(self, local_ip: bytes, local_port: int, remote_ip: bytes, remote_port: int) -> None:
        self.local_ip, self.local_port = local_ip, local_port
        self.remote_ip, self.remote_port = remote_ip, remote_port
        self.local_host: bytes | None = None
        self.remote_host: bytes | None = None
        self.remote_info: bytes | None = None
        self.interface: bytes | None = None
        self.proxy_ip: bytes | None = None
        self.proxy_port = 0
        self.never_relays = False
        self.via: bytes | None = None
        self.connection: bytes | None = None


Edits = list[tuple[bytes, bytes | None]]


def variables(facts: Facts) -> Edits:
    """The UCSPI variables of one connection, in the order in which tcpserver.c sets them.

    For an IPv6 client PROTO is TCP6, and ucspi-tcp-ipv6's names are set beside 0.88's.
    """
    ipv6 = b":" in facts.remote_ip
    edits: Edits = [
        (b"PROTO", b"TCP6" if ipv6 else b"TCP"),
        (b"TCPLOCALIP", facts.local_ip),
        (b"TCPLOCALPORT", b"%d" % facts.local_port),
        (b"TCPLOCALHOST", facts.local_host),
        (b"TCPREMOTEIP", facts.remote_ip),
        (b"TCPREMOTEPORT", b"%d" % facts.remote_port),
        (b"TCPREMOTEHOST", facts.remote_host),
        (b"TCPREMOTEINFO", facts.remote_info),
    ]
    if ipv6:
        edits += [(b"TCP6" + name[3:], value) for name, value in edits[1:]]
        edits.append((b"TCP6INTERFACE", facts.interface))
    if facts.proxy_ip is not None:
        edits += [(b"PROXYREMOTEIP", facts.proxy_ip), (b"PROXYREMOTEPORT", b"%d" % facts.proxy_port)]
    if facts.via is not None:
        edits.append((VIA, facts.via))
    if facts.connection is not None:
        edits.append((CONNECTION, facts.connection))
    return edits


def with_rule(facts: Facts, of_rule: "list[tuple[bytes, bytes]]") -> Edits:
    """The variables of one connection, then those of the client's rule, which override them.

    A client that its proxy does not name may not relay, whatever the rule sets.
    """
    edits = variables(facts) + list(of_rule)
    if facts.never_relays:
        edits += [(b"RELAYCLIENT", None), (b"NORELAY", b"1")]
    return edits


def edit(environ: dict[bytes, bytes], edits: Edits) -> None:
    """Apply the edits in their order, leaving the variables in the order in which pathexec leaves them.

    pathexec_env.c: the old entry's place is taken by the last entry, the new one goes to the end.
    """
    for name, value in edits:
        if name in environ:
            remove(environ, name)
        if value is not None:
            environ[name] = value


def remove(environ: dict[bytes, bytes], name: bytes) -> None:
    """Take one variable out; the last one moves into its place."""
    entries = list(environ.items())
    last = entries.pop()
    if last[0] != name:
        entries[[entry[0] for entry in entries].index(name)] = last
    environ.clear()
    environ.update(entries)
