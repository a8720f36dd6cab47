# bash completion for ctl. Load it with: source <(ctl completion bash)

_ctl() {
    # Bash takes "=" and ":" for ends of words: what belongs together is put
    # together again, and what stands before the last of them is not replied.
    local word glue='' typed before reply=() words=() i
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ ${#words[@]} -gt 0 && ( $glue || $word == [=:]* ) ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        glue=''
        [[ $word == *[=:] ]] && glue=1
    done
    typed=${words[-1]}
    before=${typed%"${typed##*[=:]}"}

    COMPREPLY=()
    mapfile -t reply < <("${COMP_WORDS[0]/#\~/$HOME}" __complete -- "${words[@]}" 2>/dev/null)
    case ${reply[0]-} in
    files) compopt -o default 2>/dev/null ;;
    dirs) compopt -o dirnames 2>/dev/null ;;
    words)
        for word in "${reply[@]:1}"; do
            word=${word%%$'\t'*}
            COMPREPLY+=("${word#"$before"}")
        done
        if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=:] ]]; then
            compopt -o nospace 2>/dev/null
        fi
        ;;
    esac
}

complete -F _ctl ctl
