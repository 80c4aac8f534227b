"""XCLIENT outside the conversation: who may give the command, and what follows from it for the session."""
