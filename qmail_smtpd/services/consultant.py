"""Ask the policy services about one recipient after the other of a session."""

import os
from time import monotonic, time

from qmail_smtpd.services.actions import Verdict
from qmail_smtpd.services.connection import ask
from qmail_smtpd.services.protocol import Failure, encode
from qmail_smtpd.smtp.replies import POLICY_FAILURE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.services.listing import Service, Services
    from qmail_smtpd.smtp.ruling import Ruling

TIME_LIMIT = 5.0  # seconds for one service and one recipient, connecting included
KEY_SIZES = {b"AES128": b"128", b"AES256": b"256", b"CHACHA20": b"256"}  # bits; in the names of ciphers


class Consultant:
    """The services, for one session."""

    __slots__ = ("failures", "services", "session", "transaction")

    def __init__(self, services: "Services") -> None:
        self.services = services
        self.session = b"%x.%x" % (os.getpid(), int(time() * 1000))
        self.transaction = b""
        self.failures: dict[bytes, bytes] = {}  # why services cannot be asked in this transaction, by their names

    def consult(
        self, question: dict[bytes, bytes], environ: dict[bytes, bytes], may_relay: bool, deadline: float | None
    ) -> "Ruling":
        """Ask each service, until one refuses the recipient or ends the questions.

        `question` has what the session knows, and under `instance` the number of the transaction. `deadline`: of the
        session.
        """
        if question[b"instance"] != self.transaction:
            self.transaction = question[b"instance"]
            self.failures = {}
        attributes = self.attributes(question, environ)
        verdict = Verdict()
        for service in self.services.entries:
            if not service.concerns(may_relay):
                continue
            attributes[b"policy_context"] = service.context
            try:
                action = self.action_of(service, attributes, deadline)
                if not verdict.add(service.name, action):
                    break
            except Failure as failure:
                self.failures[service.name] = failure.why
                if service.fault or not self.services.open_on_failure:
                    verdict.ruling.fail(service.name, POLICY_FAILURE, failure.why)
                    break
                verdict.warn(service.name, failure.why + b": going on without it")
        return verdict.finish()

    def action_of(self, service: "Service", attributes: dict[bytes, bytes], deadline: float | None) -> bytes:
        """Return the service's action. Raises Failure. A service that fails is not asked again in the transaction."""
        if service.fault:
            raise Failure(b"not_understood")
        if service.name in self.failures:
            raise Failure(self.failures[service.name])
        limit = monotonic() + TIME_LIMIT
        return ask(service, encode(attributes), limit if deadline is None else min(limit, deadline))

    def attributes(self, question: dict[bytes, bytes], environ: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return all attributes of SMTPD_POLICY_README. Those that are not known here are empty, as in Postfix."""
        name = environ.get(b"TCPREMOTEHOST", b"unknown")
        cipher = environ.get(b"TLS_CIPHER", b"")
        return {
            b"request": b"smtpd_access_policy",
            b"protocol_state": b"RCPT",
            **question,
            b"instance": b"%b.%b" % (self.session, question[b"instance"]),
            b"queue_id": b"",
            b"recipient_count": b"0",  # Postfix has another number only at DATA and later
            b"client_address": environ.get(b"TCPREMOTEIP", b"unknown"),
            b"client_name": name,
            b"reverse_client_name": name,
            b"client_port": environ.get(b"TCPREMOTEPORT", b""),
            b"server_address": environ.get(b"TCPLOCALIP", b""),
            b"server_port": environ.get(b"TCPLOCALPORT", b""),
            b"sasl_sender": b"",
            b"encryption_protocol": environ.get(b"TLS_PROTOCOL", b""),
            b"encryption_cipher": cipher,
            b"encryption_keysize": keysize(cipher),
            b"ccert_subject": b"",
            b"ccert_issuer": b"",
            b"ccert_fingerprint": b"",
            b"ccert_pubkey_fingerprint": b"",
            b"etrn_domain": b"",
            b"stress": b"",
        }


def keysize(cipher: bytes) -> bytes:
    """Return the bits of a cipher's key: 0 without a cipher, or if its name does not tell."""
    name = cipher.replace(b"AES_", b"AES")
    return next((size for mark, size in KEY_SIZES.items() if mark in name), b"0")
