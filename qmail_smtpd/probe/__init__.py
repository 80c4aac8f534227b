"""relaytest: tests whether a mail server is an open relay."""
