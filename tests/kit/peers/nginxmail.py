"""nginx's mail proxy for SMTP in front of a server on loopback, with the HTTP service that it asks about clients."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from tests.kit.peers.proxies import Proxy, address
from tests.kit.support import free_port, peer

MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"
CONFIGURATION = """\
load_module {module};
daemon off;
master_process off;
pid {home}/nginx.pid;
events {{ }}
mail {{
    server_name proxy.example.com;
    auth_http 127.0.0.1:{service}/auth;
    server {{
        listen {listen};
        protocol smtp;
        smtp_auth {mechanisms};
        xclient {xclient};
    }}
}}
"""
PASSWORDS = {"joe": "secret"}


def make_handler(server: int) -> type[BaseHTTPRequestHandler]:
    """Return the service of auth_http for a server on this port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Send every client to the server, after a login only those with the right password."""
            header = self.headers
            right = PASSWORDS.get(header.get("Auth-User", "")) == header.get("Auth-Pass")
            status = "OK" if header["Auth-Method"] == "none" or right else "Invalid login or password"
            self.send_response(200)
            for name, value in (("Auth-Status", status), ("Auth-Server", "127.0.0.1"), ("Auth-Port", str(server))):
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def nginx_mail(
    home: Path, server: int, xclient: str = "on", mechanisms: str = "none", host: str = "127.0.0.1"
) -> Iterator[Proxy]:
    """nginx in front of the server. `mechanisms`: with which clients log in; `none` for clients without a login."""
    service = HTTPServer(("127.0.0.1", 0), make_handler(server))
    thread = Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    file, port = home / "nginx-mail.conf", free_port(host)
    file.write_text(
        CONFIGURATION.format(
            module=peer(MODULE),
            home=home,
            service=service.server_port,
            listen=address(host, port),
            mechanisms=mechanisms,
            xclient=xclient,
        )
    )
    command = [peer("/usr/sbin/nginx"), "-e", "stderr", "-p", str(home), "-c", str(file)]
    try:
        with Proxy(command, host, port) as proxy:
            yield proxy
    finally:
        service.shutdown()
        thread.join()
        service.server_close()


def plain(user: str, password: str) -> str:
    """Return the command for AUTH PLAIN."""
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()
