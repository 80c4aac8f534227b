"""Queueing of accepted messages: the client of qmail-queue programs, and two programs with qmail-queue's interface."""
