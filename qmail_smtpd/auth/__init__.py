"""SMTP AUTH: what is offered, how a checker is run, the checkers themselves, and the users file."""
