"""The settings of the command line, in the form that serving needs: plain values, checked, no names left to resolve.

The settings travel as words from the process that parsed them to the fresh interpreter that serves (cli.py, start.py).
Knows neither options nor sockets.
"""

import os

CONVERTERS = {  # field -> what makes its value from its word; other fields are text
    "port": int,
    "verbosity": int,
    "limit": int,
    "backlog": int,
    "uid": int,
    "gid": int,
    "groups": int,
    "ident_timeout": int,
    "prepare_timeout": int,
    "address_limit": int,
    "rate": int,
    "rate_period": int,
    "drain": int,
    "reuse": int,
    "reuse_asked": int,
    "rules_optional": int,
    "print_port": int,
    "ask_host": int,
    "paranoid": int,
    "ask_info": int,
    "kill_ip_options": int,
    "nodelay": int,
    "proxy_timeout": int,
}


LISTS = ("command", "groups", "loadable", "preload", "program", "proxy_from")


class Settings:
    """One tcpserver's settings. Text is str as sys.argv has it (os.fsencode gives the bytes); None means not given."""

    __slots__ = (
        "address",
        "address_limit",
        "address_message",
        "ask_host",
        "ask_info",
        "backlog",
        "banner",
        "command",
        "drain",
        "gid",
        "groups",
        "ident_timeout",
        "kill_ip_options",
        "limit",
        "loadable",
        "local_name",
        "log_format",
        "nodelay",
        "paranoid",
        "port",
        "preload",
        "prepare_timeout",
        "print_port",
        "program",
        "proxy_from",
        "proxy_timeout",
        "rate",
        "rate_period",
        "reuse",
        "reuse_asked",
        "rules",
        "rules_optional",
        "uid",
        "verbosity",
    )

    address: str | None  # numeric; one with a colon is IPv6; None: the socket of LISTEN_FDS
    port: int
    program: list[str]
    command: list[str]  # the words of tcpserver's own command line, without its name: for ps
    verbosity: int  # 0 -q, 1 -Q, 2 -v
    limit: int  # -c
    backlog: int  # -b
    rules: str | None  # -x
    rules_optional: int  # -X: 1 = a rules file that does not exist allows
    banner: str | None  # -B
    uid: int | None
    gid: int | None
    groups: list[int]
    print_port: int  # -1
    local_name: str | None  # -l
    ask_host: int  # -h
    paranoid: int  # -p
    ask_info: int  # -r
    ident_timeout: int  # -t, seconds
    prepare_timeout: int  # --prepare-timeout, seconds for all that happens before the program runs
    address_limit: int  # -C, at once from one address; 0: no limit
    address_message: str | None  # -C's message to a client that is refused
    rate: int  # --rate, accepted from one address in rate_period seconds; 0: no limit
    rate_period: int
    drain: int | None  # --drain, seconds that sessions have to end after SIGTERM
    reuse: int  # --reuse, clients one after the other in one process
    reuse_asked: int  # whether --reuse was given
    preload: list[str]  # --preload, each MODULE:FUNCTION:PATH
    loadable: list[str]  # the same, found on the command line and in the environment
    log_format: str  # --log-format: text or json
    kill_ip_options: int  # -O
    nodelay: int  # -D
    proxy_from: list[str]  # --proxy-from, networks from which a connection begins with a PROXY header
    proxy_timeout: int  # --proxy-timeout, seconds for the header

    def __init__(self, **values: object) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name, [] if name in LISTS else None))

    def words(self) -> list[str]:
        """The settings as `name=value` words: one for each item of a list, none for a value that was not given."""
        words = []
        for name in self.__slots__:
            value = getattr(self, name)
            for item in value if isinstance(value, list) else [value]:
                if item is not None:
                    words.append(f"{name}={item}")
        return words

    @classmethod
    def from_words(cls, words: list[str]) -> "Settings":
        """The settings that words() wrote."""
        settings = cls()
        for word in words:
            name, _, text = word.partition("=")
            value = CONVERTERS[name](text) if name in CONVERTERS else text
            if isinstance(getattr(settings, name), list):
                getattr(settings, name).append(value)
            else:
                setattr(settings, name, value)
        return settings


def octets(text: str) -> bytes:
    """The bytes that a word of the command line stood for."""
    return os.fsencode(text)
