"""What runs in a forked child, for one client or one after the other. Imports nothing of the parent's."""
