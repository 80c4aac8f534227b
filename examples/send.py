"""Send one message to the quick start's server from a chosen address of this host: send.py PORT CLIENT RECIPIENT.

Prints the server's answer. Exit code 0 says that it has taken the message, 1 that it has not.
"""

import smtplib
import sys

SENDER = "me@home.example"
TIMEOUT = 20  # seconds for one answer


def send(port: int, client: str, recipient: str, subject: str = "quick start") -> tuple[int, str]:
    """The last answer of the server at 127.0.0.1: of the first command that it refuses, or to the message."""
    # the name in EHLO is given, or smtplib would look for one in the DNS
    with smtplib.SMTP("127.0.0.1", port, "client.example", TIMEOUT, source_address=(client, 0)) as smtp:
        smtp.ehlo()
        answer = smtp.mail(SENDER)
        if answer[0] == 250:
            answer = smtp.rcpt(recipient)
        if answer[0] == 250:
            answer = smtp.data(f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nHello.\r\n")
    return answer[0], answer[1].decode("ascii", "replace")


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[1].isdigit():
        sys.exit("usage: send.py PORT CLIENT RECIPIENT")
    try:
        code, text = send(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    except (OSError, smtplib.SMTPException) as error:
        sys.exit(f"send.py: {error}")
    print(code, text)
    sys.exit(code != 250)
