"""Print a script that completes commands, options, configurations and keys in a shell.

The words are those of now: print it again after an update. zsh reads bash's script.

examples:
  dreammatcher completion bash > ~/.local/share/bash-completion/completions/dreammatcher
  source <(dreammatcher completion zsh)
"""

from __future__ import annotations

import argparse
import importlib

from framework.cli import commands as top
from framework.cli.arguments import Parser, add_common

SHELLS = ("bash", "zsh")

_SCRIPT = """\
_{program}() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command="" word words=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in -*) ;; *) command="${{command:+$command }}$word" ;; esac
    done
    if [[ "$previous" == --config ]]; then
        words="{configurations}"
    else
        case "$command" in
            ""|help) words="{commands} help --help --version" ;;
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ ${{#COMPREPLY[@]}} -eq 1 && "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}}
complete -o default -F _{program} {program}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", choices=SHELLS, help="whose script")


def run(args: argparse.Namespace) -> None:
    """Print it."""
    if args.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(script(), end="")


def script() -> str:
    """Bash's script, with every command's options and the configuration's keys."""
    from framework.config.resources import shipped_configs

    keys = " ".join(f"{key}=" for key in sorted(config_keys()))
    cases = _cases("", top.COMMANDS, keys)
    return _SCRIPT.format(
        program=top.PROGRAM,
        commands=" ".join(top.COMMANDS),
        configurations=" ".join(shipped_configs()),
        cases="\n".join(cases),
    )


def config_keys() -> list[str]:
    """Every key of the default configuration, joined by dots: what ``key=value`` may name."""
    from framework.config.page import load_config, to_plain
    from framework.runs.folder import flattened

    return list(flattened(to_plain(load_config(None))))


def _plans() -> list[str]:
    from framework.config.resources import shipped_configs

    folder = "ablations/"
    return [name.removeprefix(folder) for name in shipped_configs() if name.startswith(folder)]


def _cases(before: str, commands: top.Commands, keys: str) -> list[str]:
    """A line for each command: the words that may follow it."""
    lines = []
    for name, (module_name, _) in commands.items():
        module, path = importlib.import_module(module_name), f"{before}{name}"
        if hasattr(module, "COMMANDS"):
            lines += _cases(f"{path} ", module.COMMANDS, keys)
            lines.append(f'            "{path}") words="{" ".join(module.COMMANDS)}" ;;')
            continue
        parser = Parser(prog=path)
        add_common(parser)
        module.add_arguments(parser)
        words = [word for action in parser._actions for word in action.option_strings]
        words += [str(word) for action in parser._actions for word in action.choices or ()]
        names = {action.dest for action in parser._actions}
        words += _plans() if "plan" in names else []
        words += [keys] if "overrides" in names else []
        lines.append(f'            "{path}"|"{path} "*) words="{" ".join(words)}" ;;')
    return lines
