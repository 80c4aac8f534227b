"""Load for the benchmarks: clients in one process with epoll, and the CPU time of a server's whole process tree."""

import atexit
import os
import select
import socket
import subprocess
import time
from statistics import median

from figures import Figure

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed by pip, with compiled modules, which need less memory
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 60.0  # seconds for a reply on a busy machine


def fields(pid: str) -> list[int]:
    """Return /proc/PID/stat as numbers from the state on, with the pid in the state's place; zeros if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            words = stat.read().rpartition(")")[2].split()
    except OSError:
        return [0] * 20
    return [int(pid), *map(int, words[1:])]


def tree(*roots: int) -> dict[int, list[int]]:
    """Return the fields of these processes and of all their living descendants, by pid."""
    left = {stat[0]: stat for stat in (fields(pid) for pid in os.listdir("/proc") if pid.isdigit())}
    found = {pid: left.pop(pid) for pid in roots if pid in left}
    while children := [pid for pid, stat in left.items() if stat[1] in found]:
        found |= {pid: left.pop(pid) for pid in children}
    return found


def cpu(*roots: int) -> float:
    """Return the CPU seconds so far of process trees: of the living processes, and of those that were waited for."""
    return sum(running_time(pid) + sum(stat[13:15]) / TICK for pid, stat in tree(*roots).items())


def running_time(pid: int) -> float:
    """Return the CPU seconds of a living process by the scheduler's clock; 0 if it has ended.

    /proc/PID/stat rounds down to hundredths of a second, which hides half of what twenty workers use in a short run.
    """
    nanoseconds = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                nanoseconds += int(file.read().split()[0])
    except OSError:
        return nanoseconds / 1e9
    return nanoseconds / 1e9


def settled(*roots: int) -> float:
    """Return what `cpu` returns, once it no longer changes: then the last processes have been waited for."""
    before = -1.0
    while before != (now := cpu(*roots)):
        before = now
        time.sleep(0.1)
    return now


class Server:
    """A tcpserver (theirs or ours) started with -1. It listens on `port`."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
        atexit.register(self.stop)
        assert self.process.stdout
        self.pid = self.process.pid
        self.port = int(self.process.stdout.readline())
        time.sleep(0.3)  # the rest of its start-up is not to be measured

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self.process.terminate()
        self.process.wait()


def expect(client: socket.socket, codes: bytes | tuple[bytes, ...]) -> None:
    """Read one SMTP reply, of one line or more, which begins with one of these codes."""
    reply = b""
    while not (reply.endswith(b"\n") and reply[reply.rfind(b"\n", 0, -1) + 4 :][:1] == b" "):
        part = client.recv(4096)
        assert part, f"the server has closed the connection after {reply!r}"
        reply += part
    assert reply.startswith(codes), reply


def try_out(port: int, script: list[bytes]) -> None:
    """Run one session, in which the server must accept everything: refusals are fast, and must not be measured."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        expect(client, b"220")
        for line in script:
            client.sendall(line)
            expect(client, (b"2", b"3"))


class Visit:
    """One client: connects, sends each line of `script` after a reply, and reads to the end."""

    def __init__(self, port: int, script: list[bytes]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self.script = iter(script)

    def ready(self) -> bool:
        """Read and send without blocking. Return True once the server has closed the connection."""
        try:
            if not self.socket.recv(65536):
                return True
            line = next(self.script, None)
            if line is not None:
                self.socket.send(line)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False


def visit(port: int, connections: int, at_once: int, script: list[bytes]) -> float:
    """Make this many visits, `at_once` of them at a time. Return the seconds."""
    poll = select.epoll()
    open_visits: dict[int, Visit] = {}
    started, begun, done = time.perf_counter(), 0, 0
    while done < connections:
        while begun < connections and len(open_visits) < at_once:
            client = Visit(port, script)
            open_visits[client.socket.fileno()] = client
            poll.register(client.socket, select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)
            begun += 1
        events = poll.poll(PATIENCE)
        assert events, f"no reply for {PATIENCE:.0f} seconds"
        for descriptor, _ in events:
            if open_visits[descriptor].ready():
                open_visits.pop(descriptor).socket.close()
                done += 1
    return time.perf_counter() - started


def measure(
    servers: dict[str, list[str]], rounds: int, connections: int, at_once: int = 20, script: list[bytes] | None = None
) -> dict[str, Figure]:
    """Run every server in every round, one after another, so that a slow minute of the machine affects all of them.

    Return the medians of the rounds.
    """
    rates: dict[str, list[float]] = {name: [] for name in servers}
    costs: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, argv in servers.items():
            server = Server(argv)
            if script:
                try_out(server.port, script)
            before = settled(server.pid)
            seconds = visit(server.port, connections, at_once, script or [])
            rates[name].append(connections / seconds)
            costs[name].append((settled(server.pid) - before) / connections * 1000)
            server.stop()
    return {name: Figure(median(rates[name]), median(costs[name])) for name in servers}
