#!/bin/sh
# Cyrus SASL's SCRAM client refuses every server that asks for more than 65536 iterations.
#
# For whom: everyone who stores SCRAM passwords with the 600,000 iterations that OWASP recommends for PBKDF2-HMAC-SHA256: programs
# on libsasl2 (Postfix as a client, OpenLDAP's tools) cannot log in, although the password is right.
# Package: libsasl2-2 and libsasl2-modules 2.1.28+dfsg-10+deb12u1 (Debian 12).
# Behaviour: RFC 5802 sets a minimum (4096) and no maximum. With 65536 the client answers with its proof; with 65537 it ends
# with SASL_BADPROT (-5). sasl_errdetail() has the reason.
# Output seen:
#   i=4096: 1, proof
#   i=65536: 1, proof
#   i=65537: -5, no proof (SASL(-5): bad protocol / cancel: iteration-count is too big, refusing to compute)
#   i=600000: -5, no proof (SASL(-5): bad protocol / cancel: iteration-count is too big, refusing to compute)
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg python3; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
version=2.1.28+dfsg-10+deb12u1
apt-get -qq download libsasl2-2:amd64=$version libsasl2-modules:amd64=$version >download.log 2>&1 ||
    cannot "$(tail -n 1 download.log)"
for package in *.deb; do dpkg -x "$package" . || cannot "$package"; done

SASL_PATH=$folder/usr/lib/x86_64-linux-gnu/sasl2 python3 - <<'END'
import base64, ctypes, sys

CONTINUE, INTERACT, BAD_PROTOCOL = 1, 2, -5
USER, NAME, PASSWORD = 0x4001, 0x4002, 0x4004
ANSWERS = {USER: b"", NAME: b"joe", PASSWORD: b"secret"}
sasl = ctypes.CDLL("usr/lib/x86_64-linux-gnu/libsasl2.so.2")
sasl.sasl_errdetail.restype = ctypes.c_char_p


class Callback(ctypes.Structure):
    _fields_ = [("id", ctypes.c_ulong), ("function", ctypes.c_void_p), ("context", ctypes.c_void_p)]


class Question(ctypes.Structure):
    texts = [(name, ctypes.c_char_p) for name in ("challenge", "prompt", "default", "result")]
    _fields_ = [("id", ctypes.c_ulong), *texts, ("length", ctypes.c_uint)]


def step(iterations):
    """What the client makes of a first server message with this number: the result, whether it sends a proof, and the error."""
    connection, output, length, mechanism = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_char_p()
    questions = ctypes.POINTER(Question)()
    results = ctypes.byref(questions), ctypes.byref(output), ctypes.byref(length)
    sasl.sasl_client_new(b"smtp", b"mx.example.org", None, None, callbacks, 0, ctypes.byref(connection))
    while sasl.sasl_client_start(connection, b"SCRAM-SHA-256", *results, ctypes.byref(mechanism)) == INTERACT:
        number = 0
        while questions[number].id:
            questions[number].result = ANSWERS[questions[number].id]
            questions[number].length = len(ANSWERS[questions[number].id])
            number += 1
    nonce = ctypes.string_at(output.value, length.value).split(b"r=")[1]
    server = b"r=%sserver,s=%s,i=%d" % (nonce, base64.b64encode(b"saltsaltsaltsalt"), iterations)
    result = sasl.sasl_client_step(connection, server, len(server), *results)
    proof = result == CONTINUE and b",p=" in ctypes.string_at(output.value, length.value)
    return result, proof, "" if proof else f" ({sasl.sasl_errdetail(connection).decode()})"


callbacks = (Callback * 4)(*(Callback(name, None, None) for name in (*ANSWERS, 0)))
sasl.sasl_client_init(callbacks)
seen = []
for iterations in (4096, 65536, 65537, 600000):
    result, proof, error = step(iterations)
    seen.append((result, proof))
    print(f"i={iterations}: {result}, {'proof' if proof else 'no proof'}{error}")
sys.exit(0 if seen == [(CONTINUE, True)] * 2 + [(BAD_PROTOCOL, False)] * 2 else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
