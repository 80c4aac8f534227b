"""Send one message to a server on 127.0.0.1 from a chosen loopback address: send.py PORT CLIENT RECIPIENT.

Print the server's last answer. Exit code 0 if the server accepted the message, else 1.
"""

import smtplib
import sys

SENDER = "me@home.example"
TIMEOUT = 20  # seconds for each answer


def send(port: int, client: str, recipient: str, subject: str = "quick start") -> tuple[int, str]:
    """Send a message. Return the answer (code, text) to the first refused command, or else to the message."""
    # The EHLO name is given because smtplib would otherwise look it up in the DNS.
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
