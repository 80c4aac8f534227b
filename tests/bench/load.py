"""Load for the benchmarks: clients in one process on epoll, and the CPU that a server's whole process tree has used."""

import os
import select
import socket
import subprocess
import time
from statistics import median

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs: it takes less memory
TICK = os.sysconf("SC_CLK_TCK")


def fields(pid: str) -> list[int]:
    """/proc/PID/stat as numbers, from the state on, in whose place the pid stands; zeros for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            words = stat.read().rpartition(")")[2].split()
    except OSError:
        return [0] * 20
    return [int(pid), *map(int, words[1:])]


class Server:
    """A tcpserver (theirs or ours) started with -1; `port` is where it listens."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        time.sleep(0.3)  # what it still does at its start is not what is measured

    def cpu(self) -> float:
        """Seconds of CPU so far: its own, that of its children that have ended, and of those that live."""
        here = self.process.pid
        used = [fields(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        return sum(sum(one[11:15]) for one in used if here in (one[0], one[1])) / TICK

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Visit:
    """One client: connects, sends each line of `script` as the answers come, reads to the end."""

    def __init__(self, port: int, script: list[bytes]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))
        self.script = iter(script)

    def ready(self) -> bool:
        """Go on as far as the server lets us. True once the server has closed the connection."""
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
    """Make so many visits, so many at once. Returns the seconds that it took."""
    poll = select.epoll()
    open_visits: dict[int, Visit] = {}
    started, begun, done = time.perf_counter(), 0, 0
    while done < connections:
        while begun < connections and len(open_visits) < at_once:
            one = Visit(port, script)
            open_visits[one.socket.fileno()] = one
            poll.register(one.socket, select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)
            begun += 1
        for descriptor, _ in poll.poll():
            if open_visits[descriptor].ready():
                open_visits.pop(descriptor).socket.close()
                done += 1
    return time.perf_counter() - started


class Figure:
    """Medians of the rounds: connections a second, milliseconds of CPU a connection."""

    def __init__(self, rates: list[float], costs: list[float]) -> None:
        self.rate, self.cost = median(rates), median(costs)


def measure(
    servers: dict[str, list[str]], rounds: int, connections: int, at_once: int = 20, script: list[bytes] | None = None
) -> dict[str, Figure]:
    """Run every server in every round, one after the other, so that a slow minute of the machine hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    costs: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, argv in servers.items():
            server = Server(argv)
            before = server.cpu()
            seconds = visit(server.port, connections, at_once, script or [])
            settle(server)
            rates[name].append(connections / seconds)
            costs[name].append((server.cpu() - before) / connections * 1000)
            server.stop()
    return {name: Figure(rates[name], costs[name]) for name in servers}


def settle(server: Server) -> None:
    """Wait until the CPU figure stands still: the last children have been waited for."""
    before = -1.0
    while before != (now := server.cpu()):
        before = now
        time.sleep(0.1)
