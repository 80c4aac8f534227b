# fish completion for tcprulescheck, made by share/generate
complete -c tcprulescheck -l explain
complete -c tcprulescheck -l source -r -F
complete -c tcprulescheck -l dump
complete -c tcprulescheck -l replay
complete -c tcprulescheck -l against -r -F
complete -c tcprulescheck -l audit
