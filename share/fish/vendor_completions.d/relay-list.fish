# fish completion for relay-list, made by share/generate
complete -c relay-list -f
complete -c relay-list -l json -d 'Print one JSON object a line.'
complete -c relay-list -l deny -x -d 'Revoke relaying for this client until its next login.'
complete -c relay-list -l limits -d 'Show what logins and addresses have used of their limits.'
complete -c relay-list -l reset -x -d 'Forget what is counted for this login or address.'
complete -c relay-list -l help -d 'Show this message and exit.'
