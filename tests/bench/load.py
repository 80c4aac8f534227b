"""Load for the benchmarks: clients in one process with epoll, and the CPU time of a server's whole process tree."""

import os
import select
import socket
import subprocess
import time
from statistics import median

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed by pip, with compiled modules, which need less memory
TICK = os.sysconf("SC_CLK_TCK")


def fields(pid: str) -> list[int]:
    """Return /proc/PID/stat as numbers from the state on, with the pid in the state's place; zeros if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            words = stat.read().rpartition(")")[2].split()
    except OSError:
        return [0] * 20
    return [int(pid), *map(int, words[1:])]


class Server:
    """A tcpserver (theirs or ours) started with -1. It listens on `port`."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())
        time.sleep(0.3)  # the rest of its start-up is not to be measured

    def cpu(self) -> float:
        """Return the CPU seconds so far of the server and its children, including those that have ended."""
        server = self.process.pid
        stats = [fields(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        return sum(sum(stat[11:15]) for stat in stats if server in (stat[0], stat[1])) / TICK

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


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
        for descriptor, _ in poll.poll():
            if open_visits[descriptor].ready():
                open_visits.pop(descriptor).socket.close()
                done += 1
    return time.perf_counter() - started


class Figure:
    """Medians of the rounds: connections per second, milliseconds of CPU per connection."""

    def __init__(self, rates: list[float], costs: list[float]) -> None:
        self.rate, self.cost = median(rates), median(costs)


def measure(
    servers: dict[str, list[str]], rounds: int, connections: int, at_once: int = 20, script: list[bytes] | None = None
) -> dict[str, Figure]:
    """Run every server in every round, one after another, so that a slow minute of the machine affects all of them."""
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
    """Wait until the CPU time no longer changes: then the last children have been waited for."""
    before = -1.0
    while before != (now := server.cpu()):
        before = now
        time.sleep(0.1)
