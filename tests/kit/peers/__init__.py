"""Servers and clients of others that the tests run: real ones, and those made for a test."""
