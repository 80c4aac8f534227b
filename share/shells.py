"""Completion of one program as a file for bash, zsh or fish."""

from typing import NamedTuple

BASH = """\
# bash completion for {name}, made by share/generate
_{function}() {{
    local cur=$2 previous=$3 index words=0
    case $previous in
{values}\
    esac
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${{COMP_WORDS[index]}} in
{skipped}\
            -?*) ;;
            *) ((++words)) ;;
        esac
    done
    if [[ $cur == -* ]]{before}; then
        mapfile -t COMPREPLY < <(compgen -W "{names}" -- "$cur")
{words}\
    fi
}}
complete -F _{function} {name}
"""
BASH_FILES = 'compopt -o filenames\n{indent}mapfile -t COMPREPLY < <(compgen -f -- "$cur")\n'


class Choice(NamedTuple):
    """An option, with all its names."""

    names: tuple[str, ...]
    help: str
    value: str  # the placeholder of its value; empty if it takes none
    choices: tuple[str, ...]
    is_file: bool
    repeats: bool


class Program(NamedTuple):
    """A program, its options, and what its words are."""

    name: str
    options: list[Choice]
    before_program: int | None  # how many words precede another command. None: none follows
    takes_words: bool


def bash(program: Program) -> str:
    """Return a completion function for bash, which needs nothing of bash-completion."""
    values = [option for option in program.options if option.value]
    skipped = "|".join(name for option in values for name in option.names)
    return BASH.format(
        name=program.name,
        function="ucspi_smtpd_" + program.name.replace("-", "_"),
        values=_bash_values(values),
        skipped=f"            {skipped}) ((++index)) ;;\n" if values else "",
        before=f" && ((words <= {program.before_program}))" if program.before_program is not None else "",
        names=" ".join(name for option in program.options for name in option.names),
        words=_bash_words(program),
    )


def _bash_values(options: list[Choice]) -> str:
    """Return the cases of options with values: one for all those that are completed in the same way."""
    names: dict[str, list[str]] = {}
    for option in options:
        names.setdefault(_bash_value(option), []).extend(option.names)
    return "".join(
        f"        {'|'.join(words)})\n{act}            return\n            ;;\n" for act, words in names.items()
    )


def _bash_value(option: Choice) -> str:
    if option.is_file:
        return f"            {BASH_FILES.format(indent=' ' * 12)}"
    if option.choices:
        return f'            mapfile -t COMPREPLY < <(compgen -W "{" ".join(option.choices)}" -- "$cur")\n'
    return ""


def _bash_words(program: Program) -> str:
    if not program.takes_words:
        return ""
    files = f"    else\n        {BASH_FILES.format(indent=' ' * 8)}"
    if program.before_program is None:
        return files
    return (
        f"    elif ((words == {program.before_program})); then\n"
        f'        mapfile -t COMPREPLY < <(compgen -c -- "$cur")\n'
        f"    elif ((words > {program.before_program})); then\n"
        f"        {BASH_FILES.format(indent=' ' * 8)}"
    )


def zsh(program: Program) -> str:
    """Return a completion function for zsh."""
    specs = [spec for option in program.options for spec in _zsh_specs(option)]
    if program.before_program is not None:
        specs += [f"{number}:word:" for number in range(1, program.before_program + 1)] + ["*::program:_normal"]
    elif program.takes_words:
        specs.append("*:word:_default")
    quoted = " \\\n    ".join("'" + spec.replace("'", "'\\''") + "'" for spec in specs)
    first = "-A '-*' " if program.before_program is not None else ""
    return f"#compdef {program.name}\n# made by share/generate\n_arguments -s -S {first}\\\n    {quoted}\n"


def _zsh_specs(option: Choice) -> list[str]:
    text = "".join(f"\\{char}" if char in "[]:\\" else char for char in option.help)
    place = "".join(f"\\{char}" if char in ":\\" else char for char in option.value)
    act = "_files" if option.is_file else f"({' '.join(option.choices)})" if option.choices else ""
    specs = []
    for name in option.names:
        others = "*" if option.repeats else f"({' '.join(option.names)})" if len(option.names) > 1 else ""
        equals = ("=" if name.startswith("--") else "+") if option.value else ""
        specs.append(f"{others}{name}{equals}{f'[{text}]' if text else ''}{f':{place}:{act}' if option.value else ''}")
    return specs


def fish(program: Program) -> str:
    """Return completions for fish."""
    lines = [f"# fish completion for {program.name}, made by share/generate"]
    if not program.takes_words:
        lines.append(f"complete -c {program.name} -f")
    for option in program.options:
        words = [f"complete -c {program.name}"]
        words += [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
        if option.value:
            words.append("-r -F" if option.is_file else "-x")
        if option.choices:
            words.append(f"-a '{' '.join(option.choices)}'")
        if option.help:
            escaped = option.help.replace("\\", "\\\\").replace("'", "\\'")
            words.append(f"-d '{escaped}'")
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"
