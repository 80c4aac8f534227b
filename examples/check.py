"""Send test mail through a quick start server: check.py PORT MAILDIR.

Exit code 0 if all answers are as expected, else 1.
"""

import smtplib
import sys
from pathlib import Path

from send import send

INSIDE = "someone@example.com"  # the domain is in control/rcpthosts
NOBODY = "nobody@example.com"  # not in control/validrcptto
OUTSIDE = "someone@elsewhere.example"
ACCEPTED = "250 ok "
REFUSED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
UNKNOWN = "550 sorry, no mailbox here by that name (#5.1.1)"

# client address, recipient, beginning of the expected answer
CASES = [
    ("127.0.0.1", OUTSIDE, ACCEPTED),
    ("127.0.0.2", OUTSIDE, REFUSED),
    ("127.0.0.2", INSIDE, ACCEPTED),
    ("127.0.0.2", NOBODY, UNKNOWN),
]


def main(port: int, maildir: Path) -> int:
    """Run all cases and print the result of each. Return the exit code."""
    status = 0
    for number, (client, recipient, expected) in enumerate(CASES, 1):
        subject = f"check {number}"
        try:
            code, text = send(port, client, recipient, subject)
        except (OSError, smtplib.SMTPException) as error:
            answer = f"no answer: {error}"
        else:
            answer = f"{code} {text}"
        stored = is_stored(maildir, recipient, subject)
        passed = answer.startswith(expected) and stored == (expected == ACCEPTED)
        status |= not passed
        print(f"quickstart: {'ok' if passed else 'NOT OK'}: {client} to {recipient}: {answer}", end=", ")
        print("stored" if stored else "not stored", flush=True)
    return status


def is_stored(maildir: Path, recipient: str, subject: str) -> bool:
    """Whether the Maildir holds exactly one message with this recipient and subject."""
    messages = [path.read_text("latin-1") for path in maildir.glob("new/*")]
    return sum(f"\nDelivered-To: {recipient}\n" in text and f"\nSubject: {subject}\n" in text for text in messages) == 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
