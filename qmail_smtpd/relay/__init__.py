"""POP-before-SMTP: a client whose user has just logged in to fetch mail may relay for a while."""
