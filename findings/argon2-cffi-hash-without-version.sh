#!/bin/sh
# argon2-cffi says that a hash without "v=" has version 18 (0x12). The library that verifies it takes it as version 16 (0x10).
#
# For whom: everyone who computes an old Argon2 hash again from what extract_parameters() says, or decides by `version`.
# Package: argon2-cffi 25.1.0 with argon2-cffi-bindings 25.1.0 (PyPI).
# Behaviour: the first Argon2 encoding had no field for the version. A hash in this encoding has version 1.0, number 16.
# verify() follows this: it accepts a hash without "v=" that was computed with version 16, and no other. extract_parameters()
# gives 18 for the same text. No Argon2 has the number 18, but hash_secret_raw(version=18) raises no error: it returns bytes
# that differ from those of 16 and of 19. A hash that is computed again with the extracted parameters therefore does not match,
# although the password is right.
# Output seen:
#   computed with 16, written without v=: verify() True, extract_parameters().version 18
#   computed with 18, written without v=: verify() False, extract_parameters().version 18
#   computed with 19, written without v=: verify() False, extract_parameters().version 18
#   computed again with the extracted parameters: equal False
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" >"$folder/log" 2>&1 || cannot "no python3 with venv"
"$folder/bin/pip" install -q argon2-cffi==25.1.0 argon2-cffi-bindings==25.1.0 >"$folder/log" 2>&1 ||
    cannot "$(tail -n 1 "$folder/log")"

"$folder/bin/python" - <<'END'
import base64, sys
from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import VerifyMismatchError
from argon2.low_level import hash_secret_raw

SALT, PASSWORD = b"saltsaltsaltsalt", b"secret"


def without_version(number):
    """The password's hash by this version, in the encoding of Argon2 1.0."""
    raw = hash_secret_raw(PASSWORD, SALT, 2, 256, 1, 32, Type.ID, version=number)
    salt, digest = (base64.b64encode(data).decode().rstrip("=") for data in (SALT, raw))
    return raw, f"$argon2id$m=256,t=2,p=1${salt}${digest}"


def verifies(encoded):
    try:
        return PasswordHasher().verify(encoded, PASSWORD)
    except VerifyMismatchError:
        return False


results = []
for number in (16, 18, 19):
    raw, encoded = without_version(number)
    results.append((verifies(encoded), extract_parameters(encoded).version))
    verified, version = results[-1]
    print(f"computed with {number}, written without v=: verify() {verified}, extract_parameters().version {version}")
raw, encoded = without_version(16)
found = extract_parameters(encoded)
costs = found.time_cost, found.memory_cost, found.parallelism
again = hash_secret_raw(PASSWORD, SALT, *costs, found.hash_len, found.type, version=found.version)
print(f"computed again with the extracted parameters: equal {again == raw}")
sys.exit(0 if results == [(True, 18), (False, 18), (False, 18)] and again != raw else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
