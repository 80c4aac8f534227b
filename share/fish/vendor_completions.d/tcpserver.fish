# fish completion for tcpserver, made by share/generate
complete -c tcpserver -s 1
complete -c tcpserver -s U
complete -c tcpserver -s X
complete -c tcpserver -s p
complete -c tcpserver -s P
complete -c tcpserver -s h
complete -c tcpserver -s H
complete -c tcpserver -s r
complete -c tcpserver -s R
complete -c tcpserver -s o
complete -c tcpserver -s O
complete -c tcpserver -s d
complete -c tcpserver -s D
complete -c tcpserver -s q
complete -c tcpserver -s Q
complete -c tcpserver -s v
complete -c tcpserver -s c -x
complete -c tcpserver -s b -x
complete -c tcpserver -s t -x
complete -c tcpserver -s x -r -F
complete -c tcpserver -s B -x
complete -c tcpserver -s l -x
complete -c tcpserver -s u -x
complete -c tcpserver -s g -x
complete -c tcpserver -l prepare-timeout -x
complete -c tcpserver -s C -x
complete -c tcpserver -l rate -x
complete -c tcpserver -l drain -x
complete -c tcpserver -l preload -x
complete -c tcpserver -l reuse -x
complete -c tcpserver -l exec
complete -c tcpserver -l proxy-from -x
complete -c tcpserver -l proxy-timeout -x
complete -c tcpserver -l log-format -x -a 'text json'
