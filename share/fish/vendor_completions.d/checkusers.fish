# fish completion for checkusers, made by share/generate
complete -c checkusers -l set -x -d 'Set USER\'s password: prompt, or read a line of standard input.'
complete -c checkusers -l delete -x -d 'Delete USER.'
complete -c checkusers -l list -d 'List the users and the schemes of their passwords.'
complete -c checkusers -l scheme -x -a 'SCRAM-SHA-256 ARGON2ID BLF-CRYPT PLAIN' -d 'How --set stores the password.'
complete -c checkusers -l rounds -x -d 'Iterations of SCRAM-SHA-256, cost of BLF-CRYPT, passes of ARGON2ID.'
complete -c checkusers -l help -d 'Show this message and exit.'
