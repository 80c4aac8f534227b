"""What the command line said, in the form that serving needs: plain values, checked, no names left to resolve.

The settings travel as words from the process that parsed them to the fresh interpreter that serves (cli.py, serve.py).
Knows neither options nor sockets.
"""

import os

WORDY = {  # how a field that is not plain text is read back from its word
    "port": int,
    "verbosity": int,
    "limit": int,
    "backlog": int,
    "uid": int,
    "gid": int,
    "groups": int,
    "ident_timeout": int,
    "rules_optional": int,
    "print_port": int,
    "ask_host": int,
    "paranoid": int,
    "ask_info": int,
    "kill_ip_options": int,
    "nodelay": int,
}


class Settings:
    """One tcpserver's settings. Text is str as sys.argv has it (os.fsencode gives the bytes); None means not given."""

    __slots__ = (
        "address",
        "ask_host",
        "ask_info",
        "backlog",
        "banner",
        "gid",
        "groups",
        "ident_timeout",
        "kill_ip_options",
        "limit",
        "local_name",
        "nodelay",
        "paranoid",
        "port",
        "print_port",
        "program",
        "rules",
        "rules_optional",
        "uid",
        "verbosity",
    )

    address: str | None  # numeric; one with a colon is IPv6; None: the socket of LISTEN_FDS
    port: int
    program: list[str]
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
    kill_ip_options: int  # -O
    nodelay: int  # -D

    def __init__(self, **values: object) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name, [] if name in ("groups", "program") else None))

    def words(self) -> list[str]:
        """The settings as `name=value` words, a list as one word an item, what is not given as none."""
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
            value = WORDY[name](text) if name in WORDY else text
            if isinstance(getattr(settings, name), list):
                getattr(settings, name).append(value)
            else:
                setattr(settings, name, value)
        return settings


def octets(text: str) -> bytes:
    """The bytes that a word of the command line stood for."""
    return os.fsencode(text)
