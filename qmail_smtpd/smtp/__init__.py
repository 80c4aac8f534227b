"""The SMTP conversation: bytes and values in, bytes and values out. No I/O, and no imports from outside the package."""
