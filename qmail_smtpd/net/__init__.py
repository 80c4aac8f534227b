"""The connection to the client: descriptors 0 and 1, timeouts, TLS and its certificate."""
