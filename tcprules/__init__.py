"""What a rule is: from a line of tcp.smtp to a verdict about a client. Knows no sockets."""
