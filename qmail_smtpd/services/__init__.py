"""Policy services: servers that decide about recipients, asked by Postfix's policy delegation protocol."""
