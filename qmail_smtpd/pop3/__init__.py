"""POP3, so that a login by it can open relaying."""
