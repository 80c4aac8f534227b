"""Real proxies in front of a server on loopback: haproxy, nginx's stream module, stunnel."""

import os
import signal
import socket
import subprocess
from pathlib import Path
from tempfile import TemporaryFile

from tests.kit.server import until
from tests.kit.support import free_port, peer

HAPROXY = """\
global
    maxconn 500
defaults
    mode tcp
    timeout connect 20s
    timeout client 60s
    timeout server 60s
listen mail
    bind {listen} {bind}
    {more}
    server qmail {server} {words}
"""
NGINX = """\
load_module {module};
daemon off;
master_process off;
pid {home}/nginx.pid;
events {{ }}
stream {{
    server {{
        listen {listen};
        proxy_pass {server};
        proxy_protocol on;
    }}
}}
"""
STUNNEL = """\
foreground = yes
pid =
[mail]
accept = {listen}
connect = {server}
cert = {certificate}
key = {key}
protocol = proxy
"""
NGINX_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


class Proxy:
    """A proxy that runs within a with statement, and listens on `port` of `host`."""

    def __init__(self, command: list[str], host: str, port: int) -> None:
        self.host, self.port = host, port
        self._log = TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, process_group=0
        )

    def __enter__(self) -> "Proxy":
        until(self.listens, self.log)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._log.close()

    def log(self) -> bytes:
        return os.pread(self._log.fileno(), 1 << 20, 0)

    def listens(self) -> bool:
        """Whether it accepts connections. Such a connection reaches the server, too."""
        assert self.process.poll() is None, self.log()
        try:
            socket.create_connection((self.host, self.port), 20).close()
        except ConnectionRefusedError:
            return False
        return True


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def haproxy(home: Path, server: int, words: str, bind: str = "", more: str = "", host: str = "127.0.0.1") -> Proxy:
    """haproxy, with these words at the end of the lines `server` and `bind`."""
    port, file = free_port(host), home / "haproxy.cfg"
    where = address(host, port)
    file.write_text(HAPROXY.format(listen=where, bind=bind, more=more, server=f"127.0.0.1:{server}", words=words))
    return Proxy([peer("/usr/sbin/haproxy"), "-f", str(file)], host, port)


def nginx(home: Path, server: int, host: str = "127.0.0.1") -> Proxy:
    """nginx's stream module, which sends version 1."""
    port, file = free_port(host), home / "nginx.conf"
    where = address(host, port)
    file.write_text(NGINX.format(module=peer(NGINX_MODULE), home=home, listen=where, server=f"127.0.0.1:{server}"))
    command = [peer("/usr/sbin/nginx"), "-e", "stderr", "-p", str(home), "-c", str(file)]
    return Proxy(command, host, port)


def stunnel(home: Path, server: int, certificate: Path, key: Path) -> Proxy:
    """stunnel, which accepts TLS, and sends version 1."""
    port, file = free_port(), home / "stunnel.conf"
    text = STUNNEL.format(listen=f"127.0.0.1:{port}", server=f"127.0.0.1:{server}", certificate=certificate, key=key)
    file.write_text(text)
    return Proxy([peer("/usr/bin/stunnel4"), str(file)], "127.0.0.1", port)
