"""The fixed replies of qmail-smtpd as named constants, without the line end. The texts are notqmail's, to the byte.

Replies that contain the greeting are composed where it is known.
"""

HELP = b"214 notqmail home page: https://notqmail.org"
OK = b"250 ok"
FLUSHED = b"250 flushed"
VRFY = b"252 send some mail, i'll try my best"
GO_AHEAD = b"354 go ahead"

READY_FOR_TLS = b"220 ready for tls"  # the texts for TLS, except TLS_TWICE: netqmail's TLS patch
TLS_UNAVAILABLE = b"454 TLS not available (#4.3.0)"
NO_PARAMETERS = b"501 Syntax error (no parameters allowed) (#5.5.4)"
TLS_TWICE = b"503 TLS is active already (#5.5.1)"

UNIMPLEMENTED = b"502 unimplemented (#5.5.1)"
MAIL_FIRST = b"503 MAIL first (#5.5.1)"
RCPT_FIRST = b"503 RCPT first (#5.5.1)"
BDAT_FIRST = b"503 BDAT LAST or RSET first (#5.5.1)"
SYNTAX = b"555 syntax error (#5.5.4)"

XCLIENT_SYNTAX = b"501 XCLIENT attribute=value expected (#5.5.4)"  # codes: Postfix's XCLIENT_README
XCLIENT_ATTRIBUTE = b"501 bad XCLIENT attribute (#5.5.4)"
XCLIENT_VALUE = b"501 bad %b syntax (#5.5.4)"
XCLIENT_IN_MAIL = b"503 no xclient during mail transaction (#5.5.1)"

BADMAILFROM = b"553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)"
RCPTHOSTS = b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
STRICT = b"553 we don't relay (#5.7.1)"  # the text of John Simpson's RELAYREJ
UNKNOWN = b"550 sorry, no mailbox here by that name (#5.1.1)"  # the text of qmail-local.c, without its full stop
NOT_VERIFIED = b"451 unable to verify recipient (#4.3.0)"  # the rcptcheck patch, with 421
CHECK_FAILED = b"451 unable to execute recipient check (#4.3.0)"
TOO_MANY_RECIPIENTS = b"452 too many recipients (#4.5.3)"
POLICY_FAILURE = b"451 policy service is not available (#4.3.0)"
RELAY_LIMIT = b"452 too much mail relayed, try again later (#4.7.1)"
RELAY_UNCHECKED = b"451 unable to check how much mail has been relayed (#4.3.0)"

TOO_MANY_HOPS = b"554 too many hops, this message is looping (#5.4.6)"
NEEDS_SMTPUTF8 = b"553 sorry, an address that is not ASCII needs SMTPUTF8 (#5.6.7)"  # RFC 6531 section 3.5
BARE_CR = b"554 a CR without LF is not accepted (#5.6.0)"
TOO_BIG = b"552 sorry, that message size exceeds my databytes limit (#5.3.4)"

# For AUTH: qmail-authentication 0.8.x.
AUTH_OK = b"235 ok, go ahead (#2.0.0)"
AUTH_NOT_CHECKED = b"454 oops, problem with child and I can't auth (#4.3.0)"
LOGINS_UNCHECKED = b"454 unable to check for failed logins (#4.3.0)"
AUTH_NO_CHILD = b"454 oops, child won't start and I can't auth (#4.3.0)"
AUTH_CANCELLED = b"501 auth exchange canceled (#5.0.0)"
AUTH_MALFORMED = b"501 malformed auth input (#5.5.4)"
AUTH_UNAVAILABLE = b"503 auth not available (#5.3.3)"
AUTH_TWICE = b"503 you're already authenticated (#5.5.0)"
AUTH_IN_MAIL = b"503 no auth during mail transaction (#5.5.0)"
AUTH_UNKNOWN = b"504 auth type unimplemented (#5.5.1)"
AUTH_REQUIRED = b"530 Authorization required (#5.7.1) "  # the blank at the end is the original's
AUTH_FAILED = b"535 authentication failed (#5.7.1)"
AUTH_NEEDS_TLS = b"538 auth not available without TLS (#5.3.3)"
NOT_YOUR_SENDER = b"553 sorry, that sender isn't yours (#5.7.1)"

# Replies that end the session.
TOO_MANY_LOGINS = b"421 too many failed logins (#4.7.0)"
TOO_MANY_UNKNOWN = b"421 too many invalid addresses, goodbye (#4.3.0)"  # the text of the patches with brtlimit
EARLY_TALKER = b"554 SMTP protocol violation (#5.5.1)"  # the text of the patches with a greet delay
BDAT_SYNTAX = b"501 BDAT size [LAST] expected (#5.5.4)"
XCLIENT_DENIED = b"554 access denied (#5.7.1)"
STRAY_NEWLINE = b"451 See https://cr.yp.to/docs/smtplf.html."
TIMEOUT = b"451 timeout (#4.4.2)"
SESSION_TIMEOUT = b"421 timeout (#4.4.2)"
TOO_MANY_ERRORS = b"421 too many errors (#4.7.0)"
OUT_OF_MEMORY = b"421 out of memory (#4.3.0)"
OUT_OF_DESCRIPTORS = b"421 out of descriptors (#4.3.0)"
CONTROLS_UNREADABLE = b"421 unable to read controls (#4.3.0)"
ADDRESSES_UNKNOWN = b"421 unable to figure out my IP addresses (#4.3.0)"

# Replies to a message by the exit status of the queue program: notqmail's qmail.c, qmail_close.
QQ_FAILURE = b"451 qqt failure (#4.3.0)"
QQ_WAIT = b"451 qq waitpid surprise (#4.3.0)"
QQ_CRASHED = b"451 qq crashed (#4.3.0)"
QQ_READ = b"451 qq read error (#4.3.0)"
QQ_EXEC = b"451 unable to exec qq (#4.3.0)"
QQ_PERMANENT = b"554 qq permanent problem (#5.3.0)"
QQ_TEMPORARY = b"451 qq temporary problem (#4.3.0)"

QQ_EXITS = {
    **dict.fromkeys(range(11, 41), QQ_PERMANENT),
    **dict.fromkeys((11, 115), b"554 envelope address too long for qq (#5.1.3)"),
    31: b"554 mail server permanently rejected message (#5.3.0)",
    51: b"451 qq out of memory (#4.3.0)",
    52: b"451 qq timeout (#4.3.0)",
    53: b"451 qq write error or disk full (#4.3.0)",
    54: QQ_READ,
    55: b"451 qq unable to read configuration (#4.3.0)",
    56: b"451 qq trouble making network connection (#4.3.0)",
    61: b"451 qq trouble in home directory (#4.3.0)",
    **dict.fromkeys(range(62, 67), b"451 qq trouble creating files in queue (#4.3.0)"),
    71: b"451 mail server temporarily rejected message (#4.3.0)",
    72: b"451 connection to mail server timed out (#4.4.1)",
    73: b"451 connection to mail server rejected (#4.4.1)",
    74: b"451 communication with mail server failed (#4.4.2)",
    **dict.fromkeys((81, 91), b"451 qq internal bug (#4.3.0)"),
    120: QQ_EXEC,
}
