"""What a server and the clients among the tools know of hosts and ports."""
