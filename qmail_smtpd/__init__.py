"""Mail: the SMTP conversation on descriptors 0 and 1, and where the mail goes. Knows no sockets to listen on."""
