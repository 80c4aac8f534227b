"""Hosts of a test's own network: a network namespace each, joined by a bridge that is in the namespace of the first."""

import subprocess
from types import TracebackType

from tests.kit.support import peer

FIRST = "192.0.2.1"  # the address of the host with the bridge (RFC 5737: for documentation)
BRIDGE = "ip link add br0 type bridge && ip addr add {address}/24 dev br0 && ip link set br0 up"
JOIN = """
ip link add eth0 type veth peer name veth{number} netns {first}
ip addr add {address}/24 dev eth0 && ip link set eth0 up
nsenter --net=/proc/{first}/ns/net sh -ec 'ip link set veth{number} master br0 up'
"""
STAY = "ip link set lo up\n{setup}\necho ready && exec sleep infinity"


class Network:
    """`with Network(2) as network:` has the host 0, with the bridge, and the hosts 1 and 2. Needs root."""

    def __init__(self, hosts: int) -> None:
        peer("/sbin/ip")
        self.hosts = hosts
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Network":
        for number in range(self.hosts + 1):
            first = self.processes[0].pid if number else 0
            setup = (JOIN if number else BRIDGE).format(number=number, first=first, address=self.address(number))
            words = ["unshare", "--net", "sh", "-ec", STAY.format(setup=setup)]
            self.processes.append(subprocess.Popen(words, stdout=subprocess.PIPE))
            output = self.processes[-1].stdout
            if output is None or output.readline() != b"ready\n":
                self.__exit__(None, None, None)
                raise AssertionError(f"host {number} did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def address(self, number: int) -> str:
        return FIRST[:-1] + str(number + 1)

    def on(self, number: int) -> list[str]:
        """Return the words before a command that run it on this host."""
        return ["nsenter", f"--net=/proc/{self.processes[number].pid}/ns/net"]

    def unplug(self) -> None:
        """Take the bridge down: packets get no answer from then on."""
        subprocess.run([*self.on(0), "ip", "link", "set", "br0", "down"], check=True)
