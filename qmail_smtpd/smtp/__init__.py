"""The SMTP conversation: bytes and values in, bytes and values out. Nothing here does I/O or imports from outside."""
