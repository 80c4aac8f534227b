"""Helpers of the tests: programs under test, peers, qmail homes, certificates. Contains no tests."""
