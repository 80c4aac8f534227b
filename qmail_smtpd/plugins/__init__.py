"""Plugins with qmail-spp's interface: programs that a session runs for a command before it is executed."""
