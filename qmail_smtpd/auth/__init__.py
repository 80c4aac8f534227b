"""Who may: mechanisms of SMTP AUTH, how a checker is run, and the checkers themselves."""
