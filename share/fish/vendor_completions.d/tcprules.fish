# fish completion for tcprules, made by share/generate
complete -c tcprules -l check
complete -c tcprules -l strict
complete -c tcprules -l quiet
