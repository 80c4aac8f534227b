"""The connection with the client: descriptors 0 and 1, time-outs, TLS and its certificate."""
