"""POP3 access to a Maildir. It exists so that a POP3 login can allow its client's address to relay."""
