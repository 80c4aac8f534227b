# fish completion for relayreport, made by share/generate
complete -c relayreport -l since -x -d 'read from this time on: 24h, 7d, 2026-11-24T08:00'
complete -c relayreport -l top -x -d 'rows of each table (15; a page has more)'
complete -c relayreport -l json -d 'print one JSON object'
complete -c relayreport -l html -r -F -d 'write a page for a browser'
complete -c relayreport -l listen -x -d 'follow the log, and serve the counters for Prometheus'
complete -c relayreport -l help -s h -d 'Show this message and exit.'
