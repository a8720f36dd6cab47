# fish completion for ctl. Load it with: ctl completion fish | source

function __ctl_complete
    set -l line (commandline -opc)
    set -l typed (commandline -ct)
    set -l reply ($line[1] __complete -- $line[2..] "$typed" 2>/dev/null)
    switch "$reply[1]"
        case files
            __fish_complete_path "$typed"
        case dirs
            __fish_complete_directories "$typed"
        case words
            printf '%s\n' $reply[2..]
    end
end

complete -c ctl -f -a '(__ctl_complete)'
