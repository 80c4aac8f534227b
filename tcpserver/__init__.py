"""Sockets and processes: accept a connection, judge the client, run a program for it. Knows no SMTP."""
