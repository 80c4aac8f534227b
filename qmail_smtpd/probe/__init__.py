"""relaytest: is this server an open relay?"""
