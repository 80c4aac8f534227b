"""The other programs of ucspi-tcp: they run before or beside a server's program, or are clients."""
