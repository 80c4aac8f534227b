"""The serving parent: accepts, judges and counts clients, gives each a process. Enters child/ by named functions."""
