"""POP-before-SMTP: who fetched mail a moment ago may send."""
