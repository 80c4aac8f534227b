"""Helpers of the tests: programs under test, peers, homes, certificates. Holds no test."""
