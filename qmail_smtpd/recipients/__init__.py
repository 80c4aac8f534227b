"""Which recipients exist: control/validrcptto, the program in $RCPTCHECK, and our own such programs."""
