"""The forms of RELAY_STORE for Redis: where the server is, and how to log in there. Pure.

    redis://[user:password@]host[:port][/db]
    rediss://[user:password@]host[:port][/db][?ca=FILE]
    unix://[user:password@]/path[?db=N]
    redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]

User and password may have %XX escapes.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    Address = tuple[str, int]

PORT, SENTINEL_PORT = 6379, 26379


class Target:
    """Where the server is. `name` is for the log, without the password. Creating it raises ValueError."""

    def __init__(self, store: bytes) -> None:
        text = store.decode("ascii")
        scheme, _, rest = text.partition("://")
        rest, _, query = rest.partition("?")
        self.options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
        login, _, place = rest.rpartition("@")
        user, _, password = login.partition(":")
        self.user, self.password = unquoted(user), unquoted(password)
        self.tls, self.path, self.service = scheme == "rediss", "", ""
        self.addresses: list[Address] = []
        database = "0"
        if scheme == "unix":
            self.path, database = place, self.options.pop("db", "0")
            if not place.startswith("/"):
                raise ValueError("unix:// must be followed by an absolute path")
        else:
            hosts, *parts = place.split("/")
            if scheme == "redis+sentinel":
                self.service = parts.pop(0) if parts else ""
                if not self.service:
                    raise ValueError("the name of the service must follow the sentinels")
            default = SENTINEL_PORT if self.service else PORT
            self.addresses = [split_address(host, default) for host in hosts.split(",")]
            if len(self.addresses) > 1 and not self.service:
                raise ValueError("several hosts are possible with redis+sentinel:// only")
            if parts and parts[0]:
                database = parts.pop(0)
            if any(parts):
                raise ValueError("nothing may follow the number of the database")
        self.ca = self.options.pop("ca", "") if self.tls else ""
        if self.options or not database.isdigit() or len(database) > 4:
            raise ValueError("unknown option, or the database is not a number")
        self.database = int(database)
        self.name = f"{scheme}://{place}"


def split_address(text: str, default: int) -> "Address":
    """Return host and port of `host`, `host:port`, `[::1]` or `[::1]:port`. Raise ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, str(default)
    if not port.isdigit() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError("not a port")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not host or (":" in host and f"[{host}]" not in text):
        raise ValueError("not a host")
    try:
        host.encode("idna")  # as getaddrinfo does: an empty label raises no OSError there
    except UnicodeError:
        raise ValueError("not a host") from None
    return host, int(port)


def unquoted(text: str) -> str:
    """Return the text with its %XX escapes undone. Raise ValueError."""
    first, *parts = text.split("%")
    return first + "".join(bytes.fromhex(part[:2]).decode("latin-1") + part[2:] for part in parts)
