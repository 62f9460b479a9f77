"""Completion in shells: scripts of our own, which ask the command as Typer's do, and an answer without delay.

Typer's script does nothing at the first Tab of a zsh, asks a fish's command twice, and lets bash and zsh put a space
behind `KEY=`. Where another version of Typer keeps its scripts elsewhere, it uses those.
"""

import sys
from collections.abc import MutableMapping

_VARIABLE = "_PREFILLSHARE_COMPLETE"
_OPTIONS = ("--install-completion", "--show-completion")
_CHOOSES_SHELL = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"
"""With it, Typer takes the name of a shell behind the option, and does not look which one it was started from."""

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(autocomplete_var)s=complete_bash $1 ) )
    # A value follows.
    [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
  local -a found values described
  local line
  found=("${(@f)$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _TYPER_COMPLETE_FISH_ACTION=get-args \\
    %(autocomplete_var)s=complete_fish %(prog_name)s 2>/dev/null)}")
  found=("${(@)found:#}")
  if (( ! $#found )); then
    _files
    return
  fi
  for line in "${found[@]}"; do
    values+=("${line%%%%$'\\t'*}")
    # _describe takes what is behind a colon for the description.
    described+=("${${line%%%%$'\\t'*}//:/\\\\:}${${(M)line%%$'\\t'*}:+:${line#*$'\\t'}}")
  done
  if [[ $values[1] == *= ]]; then
    # A value follows.
    compadd -S '' -a values
  else
    _describe -V '' described
  fi
}

# The first Tab loads this file, and wants an answer already.
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
  %(complete_func)s "$@"
else
  compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l found (env %(autocomplete_var)s=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \\
        _TYPER_COMPLETE_ARGS=(commandline -cp | string collect) %(prog_name)s 2>/dev/null)
    if test -n "$found"
        printf '%%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end

complete --command %(prog_name)s --no-files --arguments '(%(complete_func)s)'
"""


def prepare_completion(words: list[str], variables: MutableMapping[str, str]) -> None:
    """Make ready for what a shell asks, or for a person who wants its script.

    Effects: none for other commands.
    """
    if _VARIABLE in variables:
        # Typer would let rich look through each line of help, which takes longer than all the rest.
        sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    elif words[:1] and words[0] in _OPTIONS:
        shells = _use_own_scripts()
        if words[1:2] and words[1] in shells:
            variables[_CHOOSES_SHELL] = "1"


def _use_own_scripts() -> list[str]:
    """Let Typer hand out these scripts; return the shells that it knows."""
    try:
        from typer import _completion_shared as shared

        shared._completion_scripts.update({"bash": _BASH, "zsh": _ZSH, "fish": _FISH})
        return list(shared._completion_scripts)
    except (ImportError, AttributeError):
        return []
