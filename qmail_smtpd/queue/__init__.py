"""Where mail goes: how a qmail-queue program is run, and programs that stand in for qmail-queue."""
