"""A round of mail through a quick start server: check.py PORT MAILDIR. Exit code 0 if every answer is right, else 1."""

import smtplib
import sys
from pathlib import Path

from send import send

INSIDE = "someone@example.com"  # its domain is in control/rcpthosts
OUTSIDE = "someone@elsewhere.example"
TAKEN = "250 ok "
REFUSED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"

# client's address, recipient -> how the answer begins
ROUND = [
    ("127.0.0.1", OUTSIDE, TAKEN),
    ("127.0.0.2", OUTSIDE, REFUSED),
    ("127.0.0.2", INSIDE, TAKEN),
]


def main(port: int, maildir: Path) -> int:
    """Go the round and print how each step went."""
    status = 0
    for number, (client, recipient, wanted) in enumerate(ROUND, 1):
        subject = f"check {number}"
        try:
            code, text = send(port, client, recipient, subject)
        except (OSError, smtplib.SMTPException) as error:
            answer = f"no answer: {error}"
        else:
            answer = f"{code} {text}"
        right = answer.startswith(wanted) and is_stored(maildir, recipient, subject) == (wanted == TAKEN)
        where = ", stored" if is_stored(maildir, recipient, subject) else ", not stored"
        print(f"quickstart: {'ok' if right else 'NOT OK'}: {client} to {recipient}: {answer}{where}", flush=True)
        status |= not right
    return status


def is_stored(maildir: Path, recipient: str, subject: str) -> bool:
    """Whether exactly one message for the recipient with this subject lies in the Maildir."""
    messages = [path.read_text("latin-1") for path in maildir.glob("new/*")]
    return sum(f"\nDelivered-To: {recipient}\n" in text and f"\nSubject: {subject}\n" in text for text in messages) == 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
