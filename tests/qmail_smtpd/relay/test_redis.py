"""Logins, limits and failed logins in a real Redis, also behind a Sentinel; and what happens while it fails."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmail_smtpd.relay.counters import ADDRESS, FAILED, LOGIN, Key
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.kinds import open_counters, open_store
from qmail_smtpd.relay.redisclient import Client
from qmail_smtpd.relay.redistarget import Target
from qmail_smtpd.relay.settings import Settings
from qmail_smtpd.relay.store import Store
from tests.kit.counting import take_all, together
from tests.kit.peers.redisserver import PROGRAM, RedisServer, Sentinel, valkey
from tests.kit.relayhome import LIVE, NOT_LIVE, SHOW, Home
from tests.kit.server import Server, until
from tests.kit.support import script, times
from tests.qmail_smtpd.relay.test_failed_logins import RIGHT, WRONG, Host
from tests.qmail_smtpd.relay.test_limited_sessions import AWAY, HOME, MAIL, Site, codes

pytestmark = pytest.mark.peer
JOE = Key(LOGIN, b"joe@example.org")
HOUR = ((10, 3600),)
V4 = b"192.0.2.7"


on_valkey_too = pytest.mark.parametrize("server", ["redis", "valkey"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, program=valkey() if getattr(request, "param", "") == "valkey" else PROGRAM) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, server: RedisServer) -> Home:
    return with_store(Home(tmp_path / "home"), server.url)


def with_store(home: Home, url: str) -> Home:
    home.environ[b"RELAY_STORE"] = url.encode()
    return home


def settings(home: Home) -> Settings:
    return Settings(home.environ)


def run(home: Home, program: str, *words: bytes | str, **changes: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a program of ours as a process: it opens its own connection."""
    environ = home.environ | {name.encode(): value for name, value in changes.items()}
    return subprocess.run([script(program), *words], env=environ, capture_output=True, timeout=20)


def log_in(home: Home, address: bytes = V4) -> subprocess.CompletedProcess[bytes]:
    return run(home, "relay-allow", "echo", "mail", TCPREMOTEIP=address, USER=b"joe@example.com", TCPLOCALPORT=b"110")


def check(home: Home, address: bytes = V4) -> subprocess.CompletedProcess[bytes]:
    return run(home, "relay-check", *SHOW, TCPREMOTEIP=address)


@on_valkey_too
def test_the_programs_work_with_it_as_with_the_directory(home: Home, server: RedisServer) -> None:
    assert check(home).stdout == NOT_LIVE
    assert (log_in(home).stdout, log_in(home, b"2001:DB8::1").stderr) == (b"mail\n", b"")
    for address in (V4, b"2001:db8:0::1"):
        assert (check(home, address).stdout, check(home, address).stderr) == (LIVE, b"")
    assert check(home, b"192.0.2.8").stdout == NOT_LIVE
    listing = run(home, "relay-list").stdout
    assert listing.count(b"joe@example.com  pop3") == 2
    done = run(home, "clearopensmtp")
    assert (done.stdout.startswith(b"clearopensmtp: nothing to do: "), done.stderr, done.returncode) == (True, b"", 0)
    assert run(home, "relay-list", "--deny", V4).returncode == 0
    assert run(home, "relay-list", "--deny", V4).returncode == 1
    assert check(home).stdout == NOT_LIVE
    assert 0 < server.client().ttl("ucspi-smtpd:login:2001:db8::1") <= 2400


def test_the_times_are_those_of_the_server(home: Home) -> None:
    def store(clock: float, **changes: bytes) -> Store:
        return open_store(Settings(home.environ | {name.encode(): value for name, value in changes.items()}))

    store(0).allow(V4, b"joe", b"pop3")
    entry = store(0).check(V4)
    assert entry
    assert abs(entry.seen - time.time()) < 60
    assert entry.expires == entry.seen + 2400
    store(0, RELAY_SECONDS=b"1").allow(V4, b"joe", b"pop3")
    until(lambda: store(0).check(V4) is None)


@on_valkey_too
def test_eight_processes_are_granted_exactly_the_limit(home: Home) -> None:
    each = times(100)
    limits = ((each * 3, 3600), (each * 4, 86400))
    operation: Callable[[], int] = lambda: take_all(lambda: open_counters(settings(home)), JOE, limits, each)  # noqa: E731
    assert sum(together([operation] * 8)) == each * 3
    assert open_counters(settings(home)).used([(JOE, 3600), (JOE, 86400)]) == [each * 3, each * 3]


@on_valkey_too
def test_counters_are_listed_reset_and_expire(home: Home, server: RedisServer) -> None:
    counters = open_counters(settings(home))
    names = [b"joe", b"a*", b"a{b}:c", b"\xff\n", b"x" * 300, b"[a]\\?", b""]
    for kind in (LOGIN, ADDRESS, FAILED):
        for number, name in enumerate(names, 1):
            assert counters.take(Key(kind, name), ((100, 60),), number) == (number, None)
    assert len({(key.kind, key.name) for key in counters.counted()}) == 3 * len(names)
    assert counters.reset(Key(LOGIN, b"a*"))
    assert not counters.reset(Key(LOGIN, b"a*"))
    assert counters.used([(Key(LOGIN, name), 60) for name in names]) == [1, 0, 3, 4, 5, 6, 7]
    for key in server.client().scan_iter():
        assert 60 <= server.client().ttl(key) <= 63
        assert key.startswith(b"ucspi-smtpd:count:")
        assert key.isascii()


def test_a_failed_login_is_counted_without_waiting_for_the_answer(home: Home, server: RedisServer) -> None:
    key, counters = Key(FAILED, V4), open_counters(settings(home))
    assert counters.used([(key, 60)]) == [0]
    with server.stopped():
        for _ in range(3):
            counters.add(key, 60)
    assert counters.used([(key, 60)]) == [3]
    for _ in range(40):
        counters.add(key, 60)
    assert counters.used([(key, 60)]) == [43]
    with server.stopped():
        counters.add(key, 60)
        server.kill()  # it has not seen the last one, which is sent again
    server.start()
    assert counters.used([(key, 60)]) == [1]
    assert counters.warnings == []
    server.client().execute_command("CONFIG", "SET", "maxmemory", "1")
    counters.add(key, 60)
    assert counters.used([(key, 60)]) == [1]
    assert b"is not counted: unable to use redis" in counters.warnings.pop()


def test_a_window_slides_by_the_server_s_clock(home: Home) -> None:
    counters = open_counters(settings(home))
    assert counters.take(JOE, ((2, 1),), 3) == (2, (2, 1))
    until(lambda: counters.take(JOE, ((2, 1),), 1)[0] == 1)


@pytest.fixture
def site(tmp_path: Path, server: RedisServer) -> Site:
    return Site(tmp_path / "site", "*: 3/3600\n.: 3/3600\n", relaystore=server.url + "\n")


def assert_closed(site: Site, why: bytes) -> None:
    """Nobody relays, and mail for this host is accepted, in a time that is too short for a client to give up."""
    began = time.monotonic()
    done = site.send(MAIL + AWAY + AWAY + HOME + "QUIT\r\n")
    assert codes(done) == "220 250 451 451 250 221"
    assert done.stderr.count(b"warning: no relaying: unable to use redis") == 1
    assert why in done.stderr
    assert time.monotonic() - began < 10


def test_sessions_are_limited_and_nothing_is_kept_open(site: Site) -> None:
    assert codes(site.send(MAIL + AWAY * 2 + "QUIT\r\n")) == "220 250 250 250 221"
    assert codes(site.send(MAIL + AWAY * 2 + "QUIT\r\n")) == "220 250 250 452 221"
    assert [row["used"] for row in site.rows()] == [3]


def test_a_server_that_is_killed_refuses_relaying_until_it_is_back(site: Site, server: RedisServer) -> None:
    environ = {"QMAILHOME": str(site.home), "RELAYCLIENT": ""}
    text = (MAIL + AWAY + HOME + "QUIT\r\n").encode()
    with Server(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as smtp:

        def replies() -> list[bytes]:
            return [line[:3] for line in smtp.ask(text).split(b"\r\n")][2:4]

        assert replies() == [b"250", b"250"]
        assert replies() == [b"250", b"250"]
        server.kill()
        assert replies() == [b"451", b"250"]
        assert_closed(site, b"refused")
        server.start()
        assert replies() == [b"250", b"250"]


@on_valkey_too
@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (("CLIENT", "PAUSE", "300000", "ALL"), b"timed out"),
        (("CONFIG", "SET", "maxmemory", "1"), b"used memory"),
        (("REPLICAOF", "127.0.0.1", "1"), b"read only replica"),
        (("CONFIG", "SET", "requirepass", "x"), b"uthentication required"),
    ],
    ids=["paused", "full", "replica", "password"],
)
def test_a_server_in_trouble_refuses_relaying(
    site: Site, server: RedisServer, home: Home, trouble: tuple[str, ...], why: bytes
) -> None:
    log_in(home)
    if trouble[0] == "CONFIG":
        server.client().execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.client().execute_command(*trouble)
    assert_closed(site, why)
    done = log_in(home, b"192.0.2.9")
    assert done.stdout == b"mail\n"  # the login succeeds
    assert done.stderr.startswith(b"relay-allow: warning: unable to use redis://127.0.0.1:")
    if trouble[1:3] != ("SET", "maxmemory"):  # a full server can still answer
        assert check(home).stdout == NOT_LIVE


@on_valkey_too
def test_a_process_finds_its_way_back_after_each_trouble(home: Home, server: RedisServer) -> None:
    counters = open_counters(settings(home))
    assert counters.take(JOE, HOUR, 1)[0] == 1
    for trouble, remedy in (
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ):
        server.client().execute_command(*trouble)
        with pytest.raises(StoreError, match="unable to use redis"):
            counters.take(JOE, HOUR, 1)
        server.client().execute_command(*remedy)
        assert counters.take(JOE, HOUR, 1)[0] == 1
    server.client().execute_command("SCRIPT", "FLUSH")
    server.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert counters.take(JOE, HOUR, 1)[0] == 1


def test_a_server_that_evicts_causes_one_warning(home: Home, server: RedisServer) -> None:
    server.client().execute_command("CONFIG", "SET", "maxmemory", "100mb")
    server.client().execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert b"warning: redis://127.0.0.1" in log_in(home).stderr
    assert log_in(home).stderr == check(home).stderr == b""


def test_a_password_and_a_socket_can_be_in_the_url(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer(tmp_path, "--requirepass", "p@ss:", "--unixsocket", str(path)) as server:
        for url in (f"redis://:p%40ss%3A@127.0.0.1:{server.port}/3", f"unix://default:p%40ss%3a@{path}?db=3"):
            counters = open_counters(settings(with_store(home, url)))
            assert counters.take(JOE, HOUR, 6)[0] in (6, 4)
        done = log_in(with_store(home, f"redis://:wrong@127.0.0.1:{server.port}"))
        assert b"warning: unable to use redis://127.0.0.1:" in done.stderr
        assert b"wrong@" not in done.stderr


def test_tls_needs_the_right_authority(home: Home, tmp_path: Path) -> None:
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    for name in ("good", "other"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(["openssl", *request.split(), *files], cwd=tmp_path, check=True, capture_output=True)
    tls = [
        "--tls-cert-file",
        f"{tmp_path}/good.pem",
        "--tls-key-file",
        f"{tmp_path}/good.key",
        "--tls-auth-clients",
        "no",
    ]
    with RedisServer(tmp_path, tls=tls) as server:
        for name, grants in (("good", True), ("other", False), ("none", False)):
            with_store(home, f"rediss://127.0.0.1:{server.port}/0?ca={tmp_path}/{name}.pem")
            if grants:
                assert open_counters(settings(home)).take(JOE, HOUR, 1)[0] == 1
            else:
                with pytest.raises(StoreError, match="unable to use rediss"):
                    open_counters(settings(home)).take(JOE, HOUR, 1)


def test_a_sentinel_leads_to_the_new_master(home: Home, tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    with RedisServer(tmp_path) as master, RedisServer(tmp_path / "replica") as replica:
        replica.client().execute_command("REPLICAOF", "127.0.0.1", str(master.port))
        until(lambda: replica.client().info("replication")["master_link_status"] == "up")
        with Sentinel(tmp_path, master.port) as sentinel:
            counters = open_counters(settings(with_store(home, sentinel.url)))
            assert counters.take(JOE, HOUR, 4)[0] == 4
            until(lambda: replica.client().dbsize() == 1)
            until(lambda: len(sentinel.client().execute_command("SENTINEL", "replicas", "mymaster")) == 1)
            master.kill()
            with pytest.raises(StoreError, match=r"unable to use redis\+sentinel"):
                counters.take(JOE, HOUR, 1)

            def granted() -> int:
                try:
                    return counters.take(JOE, HOUR, 10)[0]
                except StoreError:
                    return 0

            until(lambda: granted() == 6)
            assert counters.take(JOE, HOUR, 1) == (0, (10, 3600))


@pytest.mark.parametrize(
    "url",
    [
        "redis://", "redis://h:0", "redis://h:x", "redis://h:99999", "redis://h/x", "redis://h/0/1", "redis://a,b",
        "redis://h:0100000", "redis://h?x=1", "redis://h:1:2", "unix://relative", "redis+sentinel://h:1", "redis+sentinel://h:1/",
        "redis://\xe9", "redis://:%zz@h", "redis://a..b", "redis+sentinel://a..b/m", "rediss://" + "h" * 64,
    ],
)  # fmt: skip
def test_an_address_that_is_not_understood_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Target(url.encode())


def test_a_session_of_a_worker_keeps_its_connection_for_the_next(site: Site, server: RedisServer) -> None:
    environ = {"QMAILHOME": str(site.home), "RELAYCLIENT": ""}
    with Server(["-vRHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ=environ) as smtp:
        before = server.client().info("stats")["total_connections_received"]
        for _ in range(20):
            smtp.ask((MAIL + AWAY + "QUIT\r\n").encode())
        pids = {line.split()[2] for line in smtp.log().splitlines() if line.startswith(b"tcpserver: pid ")}
        assert len(pids) < 10  # a client that comes before the worker is idle gets another one
        assert server.client().info("stats")["total_connections_received"] <= before + len(pids) + 1


def test_a_connection_that_was_made_late_has_the_whole_time_for_the_next_question(server: RedisServer) -> None:
    client = Client(server.url.encode(), 5.0)
    client.ask(b"TIME")
    assert client.line
    assert 0 < client.line.seconds < 5
    client.ask(b"TIME")
    assert client.line.seconds == 5
    client.close()


def test_a_connection_is_not_shared_over_a_fork(home: Home, server: RedisServer) -> None:
    counters = open_counters(settings(home))
    assert counters.take(JOE, HOUR, 1)[0] == 1
    before = server.client().info("stats")["total_connections_received"]
    taking: Callable[[], int] = lambda: sum(counters.take(JOE, HOUR, 1)[0] for _ in range(2))  # noqa: E731
    assert together([taking, taking]) == [2, 2]
    assert counters.take(JOE, HOUR, 9)[0] == 5
    assert server.client().info("stats")["total_connections_received"] == before + 3  # the last one is this client's


def test_the_package_is_named_if_it_is_missing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis/__init__.py").write_text("raise ImportError\n")
    done = subprocess.run(
        [script("relay-check"), *SHOW],
        env=home.environ | {b"TCPREMOTEIP": V4, b"PYTHONPATH": os.fsencode(tmp_path)},
        capture_output=True,
    )
    assert done.stdout == NOT_LIVE
    assert b"the Python package redis is missing: install ucspi-smtpd[redis]" in done.stderr


def test_failed_logins_and_limits_are_shared_by_two_hosts(tmp_path: Path, server: RedisServer) -> None:
    first, second = (Host(tmp_path / name, "2/3600", relaystore=f"{server.url}\n") for name in ("first", "second"))
    assert codes(first.log_in(WRONG)) == codes(second.log_in(WRONG)) == "220 250 535 221"
    for host in (first, second):
        assert codes(host.log_in(RIGHT)) == "220 250 421"
        (host.home / "control/relaylimits").write_text(".: 3/3600\n")
    assert codes(first.send(MAIL + AWAY * 2 + "QUIT\r\n")) == "220 250 250 250 221"
    assert codes(second.send(MAIL + AWAY * 2 + "QUIT\r\n")) == "220 250 250 452 221"
    server.kill()
    done = first.log_in(RIGHT, ip="192.0.2.9")
    assert codes(done) == "220 250 454 221"
    assert done.stderr.count(b"warning: no logins: unable to use redis://127.0.0.1:") == 1
    assert (first.checks(), second.checks()) == (1, 1)


@on_valkey_too
def test_a_server_that_is_full_allows_no_login_and_still_shows_its_counters(
    tmp_path: Path, server: RedisServer
) -> None:
    host = Host(tmp_path / "host", "9/3600", relaystore=f"{server.url}\n")
    assert codes(host.log_in(WRONG)) == "220 250 535 221"
    server.client().execute_command("CONFIG", "SET", "maxmemory", "1")
    done = host.log_in(WRONG, RIGHT)
    assert codes(done) == "220 250 454 454 221"
    assert done.stderr.count(b"warning: no logins: unable to use redis://127.0.0.1:") == 1
    assert host.checks() == 1
    assert [row["used"] for row in host.rows()] == [1]
    server.client().execute_command("CONFIG", "SET", "maxmemory", "0")
    assert codes(host.log_in(RIGHT)) == "220 250 235 221"
    assert server.client().dbsize() == 1  # nothing is written to find out whether it is full


def test_a_login_on_one_host_allows_relaying_on_another(home: Home, tmp_path: Path, server: RedisServer) -> None:
    other = with_store(Home(tmp_path / "other"), server.url)
    assert log_in(home).stderr == b""
    assert check(other).stdout == LIVE
    server.kill()
    assert check(other).stdout == NOT_LIVE
