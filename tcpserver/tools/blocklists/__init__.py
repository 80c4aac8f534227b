"""DNS block lists and allow lists (RFC 5782), for rblsmtpd."""
