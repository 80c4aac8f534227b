"""Logs for the tests of relayreport."""
