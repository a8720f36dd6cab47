#compdef ctl
# zsh completion for ctl. Load it with: source <(ctl completion zsh)

_ctl() {
    local -a reply ended open
    local line text
    reply=("${(@f)$("${words[1]/#\~/$HOME}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    case ${reply[1]} in
    files) _files; return ;;
    dirs) _files -/; return ;;
    words) ;;
    *) return 1 ;;
    esac
    for line in "${(@)reply[2,-1]}"; do
        text=${line%%$'\t'*}
        if [[ $line == *$'\t'* ]]; then
            line="${text//:/\\:}:${line#*$'\t'}"
        else
            line=${text//:/\\:}
        fi
        if [[ $text == *[=:] ]]; then
            open+=("$line")
        else
            ended+=("$line")
        fi
    done
    _describe -t words ctl ended -- open -S ''
}

# Read from a directory of functions, this file is the function.
if [[ ${funcstack[1]} == _ctl ]]; then
    _ctl "$@"
else
    compdef _ctl ctl
fi
