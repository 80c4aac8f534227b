#!/bin/sh
# nullmailer-inject keeps the quotes of a local part in the header, and drops them in the envelope.
#
# For whom: everyone who sends to addresses with a quoted local part ("a,b"@far.example). The envelope is what is delivered.
# Package: nullmailer 1:2.2-4 (Debian 12).
# Behaviour: the envelope that nullmailer-inject makes has the local part without quotes and without the backslashes, so it is
# not an SMTP address any more (RFC 5321, 4.1.2). nullmailer's smtp program sends that line as it is: RCPT
# TO:<a,b@far.example>. The field To of the same message keeps the quotes where a comma or a dot needs them, and loses them
# where only a blank needs them. The exit code is 0.
# Output seen:
#   "a,b"@far.example: envelope a,b@far.example, header To: "a,b"@far.example
#   ".a"@far.example: envelope .a@far.example, header To: ".a"@far.example
#   "a\"b"@far.example: envelope a"b@far.example, header To: "a\"b"@far.example
#   "a b"@far.example: envelope a b@far.example, header To: a b@far.example
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download nullmailer=1:2.2-4 >download.log 2>&1 && dpkg -x nullmailer_*.deb . || cannot "$(tail -n 1 download.log)"

changed=0
while read -r address envelope header; do
    envelope=$(echo "$envelope" | tr _ ' ') header=$(echo "$header" | tr _ ' ')
    # -n: queue nothing; -v: print the envelope first (sender, recipients, an empty line); -h: recipients from the header
    printf 'From: s@near.example\nSubject: x\nTo: %s\n\nhello\n' "$(echo "$address" | tr _ ' ')" |
        usr/bin/nullmailer-inject -n -v -h -f s@near.example >message || cannot "nullmailer-inject has failed"
    printf '%s: envelope %s, header %s\n' "$(echo "$address" | tr _ ' ')" "$(sed -n 2p message)" "$(grep '^To: ' message)"
    [ "$(sed -n 2p message)" = "$envelope@far.example" ] && grep -Fqx "To: $header@far.example" message || changed=1
done <<'END'
"a,b"@far.example a,b "a,b"
".a"@far.example .a ".a"
"a\"b"@far.example a"b "a\"b"
"a_b"@far.example a_b a_b
END
[ $changed = 0 ] || echo "the behaviour has changed" >&2
exit $changed
