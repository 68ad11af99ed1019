# bash splits words at `=`, so NAME=PATH arrives as three words. They are joined for dflow, and the part that bash considers
# complete is removed from its answers.
_dflow_joined() {
    local -a words=()
    local at word last=${COMP_WORDS[COMP_CWORD]}
    for ((at = 0; at <= COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if ((at > 1)) && [[ $word == "=" || ${COMP_WORDS[at - 1]} == "=" ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
    done
    local COMP_CWORD=$((${#words[@]} - 1))
    local COMP_WORDS=("${words[@]}")
    local current=${words[COMP_CWORD]}
    [[ $last == "=" ]] && last=""
    local finished=${current%"$last"}
    _clap_complete_dflow "$1" "$current" "$3"
    COMPREPLY=("${COMPREPLY[@]#"$finished"}")
}
complete -o nospace -o bashdefault -F _dflow_joined dflow
