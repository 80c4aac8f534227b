"""Access rules: from a line of tcp.smtp to the verdict about a client. Knows no sockets."""
