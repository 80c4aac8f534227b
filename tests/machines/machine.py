"""A Debian machine for tests: systemd as process 1 of new namespaces, on a root file system that debootstrap makes.

Needs root, debootstrap, and a network for the packages. The machine's own network consists of loopback and one link to
a client host, which is a second network namespace.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NAME, ADDRESS, CLIENT = "mail.example.org", "192.0.2.80", "192.0.2.7"
PACKAGES = "ca-certificates,dbus,iproute2,procps,systemd,systemd-sysv"  # procps is on each Debian that is installed
SCRIPTS = "/usr/share/debootstrap/scripts"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
CGROUPS = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
PATIENCE = 60  # seconds until the machine must have booted

BOOT = """
mount --make-rprivate /
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0 1 2; do ln -s /proc/self/fd/$number dev/$number; done
ln -s 0 dev/stdin; ln -s 1 dev/stdout; ln -s 2 dev/stderr
hostname "$2"
mkdir -p old
pivot_root . old
umount -l old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""


def base(suite: str, folder: Path) -> Path:
    """Return the root file system of a suite, which is made in this folder unless it is there."""
    root = folder / suite
    if root.exists():
        return root
    new = folder / f"{suite}.new"
    shutil.rmtree(new, ignore_errors=True)
    script = f"{SCRIPTS}/{suite}"
    words = [
        "debootstrap",
        "--variant=minbase",
        f"--include={PACKAGES}",
        suite,
        str(new),
        "http://deb.debian.org/debian",
    ]
    subprocess.run(
        [*words, script if os.path.exists(script) else f"{SCRIPTS}/sid"], check=True, stdout=subprocess.DEVNULL
    )
    configure(new)
    new.rename(root)
    return root


def configure(root: Path) -> None:
    """Let apt and pip work without questions, with the name servers and the certificates of this host."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/hostname").write_text(f"{NAME}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n")
    settings = 'APT::Get::Assume-Yes "true";\nAcquire::Check-Valid-Until "false";\n'
    (root / "etc/apt/apt.conf.d/90machine").write_text(settings)
    (root / "etc/environment").write_text("DEBIAN_FRONTEND=noninteractive\n")
    if Path("/", CERTIFICATES).exists():
        shutil.copy(Path("/", CERTIFICATES), root / CERTIFICATES)
        (root / "etc/pip.conf").write_text(f"[global]\ncert = /{CERTIFICATES}\n")


class Machine:
    """A running machine, on a copy of the suite's root file system. `with Machine("trixie", folder) as machine: ...`"""

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite = suite
        self.base = base(suite, folder)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{suite}-", dir=folder))
        self.root = self.folder / "root"
        self.client: subprocess.Popen[bytes] | None = None
        self.cgroup = next(path for path in CGROUPS if (path / "cgroup.procs").exists()) / self.folder.name

    def __enter__(self) -> "Machine":
        for name in ("root", "upper", "work"):
            (self.folder / name).mkdir()
        options = f"lowerdir={self.base},upperdir={self.folder}/upper,workdir={self.folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, self.root], check=True)
        self.cgroup.mkdir()
        self.log = (self.folder / "log").open("wb")
        flags = ["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"]
        self.process = subprocess.Popen(
            ["sh", "-ec", 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"', "sh", self.cgroup]
            + ["unshare", *flags, "sh", "-ec", BOOT, "sh", self.root, NAME],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        try:
            self.wait_for_boot()
            self.connect_client()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.process, self.client):
            if process:
                process.kill()
                process.wait()
        self.log.close()
        subprocess.run(["umount", "-l", self.root], check=False)
        until(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text())
        for path, _, _ in os.walk(self.cgroup, topdown=False):
            os.rmdir(path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_for_boot(self) -> None:
        """Wait until systemd has started its units. `degraded` counts, too: it cannot load kernel modules here."""
        until(lambda: self.first_child())
        self.pid = self.first_child()
        until(lambda: self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded"))

    def first_child(self) -> int:
        """Return the pid of process 1 of the machine, or 0 before it is there."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pids[0]) if pids else 0

    def connect_client(self) -> None:
        """Make the other host: a network namespace with one link to the machine, and the machine's files."""
        self.client = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        until(lambda: os.readlink(self.network("client")) != os.readlink("/proc/self/ns/net"))
        link = ["link", "add", "name", "mail", "type", "veth", "peer", "name", "client", "netns", str(self.client.pid)]
        self.ip("machine", *link)
        for place, name, address in (("machine", "mail", ADDRESS), ("client", "client", CLIENT)):
            self.ip(place, "link", "set", "lo", "up")
            self.ip(place, "addr", "add", f"{address}/24", "dev", name)
            self.ip(place, "link", "set", name, "up")

    def ip(self, place: str, *words: str) -> None:
        """Run ip in the network of a place."""
        subprocess.run(["nsenter", f"--net={self.network(place)}", "ip", *words], check=True)

    def network(self, place: str) -> str:
        """Return the network namespace of a place.

        `machine`, `client` (the other host), or `outside`: this host, which reaches the package servers.
        """
        client = self.client.pid if self.client else 0
        return f"/proc/{({'machine': self.pid, 'client': client, 'outside': 'self'})[place]}/ns/net"

    def run(
        self, script: str, text: str = "", place: str = "machine", directory: str = "/root", check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell script as root in the machine, from a place in the network. `text`: its standard input."""
        words = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", f"--net={self.network(place)}", "-r"]
        environ = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        words += [*environ, "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "sh", "-ec", f"cd {directory}\n{script}"]
        done = subprocess.run(
            words, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        if check and done.returncode:
            raise Failed(f"exit code {done.returncode}:\n{done.stdout}")
        return done


class Failed(Exception):
    """A command ended with a code other than 0."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"not after {seconds} seconds")
        time.sleep(0.1)
