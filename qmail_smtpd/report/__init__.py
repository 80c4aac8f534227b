"""relayreport: what the logs of tcpserver, qmail-smtpd, qmail-popup and the relay programs say."""
