"""A checkpassword program for the tests that records its calls. It behaves as the stub of the captured cases did."""

import sys
from pathlib import Path

# Users temp, misuse, crash and exit... end as their names say; hang never ends; loud writes to 1 and 2.
# joe@example.com has the password secret; a digest of it is accepted in either order of the fields.
CHECKER = """#!{python} -IS
import hmac, os, signal, sys
folder = "{folder}"
number = len([name for name in os.listdir(folder) if name.endswith(".fields")])
fields = b""
while part := os.read(3, 600):
    fields += part
with open(f"{{folder}}/{{number}}.fields", "wb") as file:
    file.write(fields)
with open(f"{{folder}}/{{number}}.words", "w") as file:
    file.write("\\0".join(sys.argv[1:]))
user, second, third, *_ = *fields.split(b"\\0"), b"", b""
codes = {{b"temp": 111, b"misuse": 2, b"exit3": 3, b"exit79": 79, b"exit99": 99, b"exit100": 100}}
if user in codes:
    os._exit(codes[user])
if user == b"crash":
    os.kill(os.getpid(), signal.SIGKILL)
if user == b"hang":
    signal.pause()
if user == b"loud":
    os.write(1, b"250 LEAK\\r\\n")
    print("stdin", os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev, file=sys.stderr)
right = user in (b"joe@example.com", b"loud") and second == b"secret"
if user == b"joe@example.com" and third:
    digest = lambda challenge: hmac.new(b"secret", challenge, "md5").hexdigest().encode()
    right = right or second == digest(third) or third == digest(second)
if not right:
    os._exit(1)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Checker:
    """The program at `path`. `calls` has, for each run, what it got on descriptor 3 and its arguments."""

    def __init__(self, folder: Path, name: str = "checkpassword") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        file = folder / name
        file.write_text(CHECKER.format(python=sys.executable, folder=folder))
        file.chmod(0o755)
        self.path = str(file)

    @property
    def calls(self) -> list[tuple[bytes, list[str]]]:
        found = []
        for number in range(len(list(self.folder.glob("*.fields")))):
            words = (self.folder / f"{number}.words").read_text().split("\0")
            found.append(((self.folder / f"{number}.fields").read_bytes(), words))
        return found
