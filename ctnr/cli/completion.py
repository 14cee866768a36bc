"""`completion bash|zsh|fish`, and what those scripts ask at every Tab: candidates from the tables that parse the line.

Names of containers, images, networks, volumes and bundles are asked of the service if it runs; it is never started for
that.
"""

from __future__ import annotations

from functools import partial

from ctnr.cli.completion_values import FILES, values_of
from ctnr.cli.grammar import Command, Parsed
from ctnr.cli.output import write
from ctnr.client.errors import ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ctnr.cli.completion_values import Candidates
    from ctnr.cli.grammar import Option
    from ctnr.client.connect import Service
    from ctnr.client.frames import Event

SHELLS = ("bash", "zsh", "fish")
_BREAKS = ("=", ":")  # at which bash begins another word

_BASH = """\
# ctnr completion bash > /etc/bash_completion.d/ctnr
_ctnr() {
    local line word="${COMP_WORDS[COMP_CWORD]}"
    local -a files=()
    case "$word" in = | :) word= ;; esac
    COMPREPLY=()
    while IFS= read -r line; do
        line="${line%%$'\\t'*}"
        if [ "$line" = ":files" ]; then
            while IFS= read -r line; do files+=("$line"); done < <(compgen -f -- "$word")
        else
            case "$line" in "$word"*) COMPREPLY+=("$line") ;; esac
        fi
    done < <("${COMP_WORDS[0]}" completion - "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    # bash takes all words for names of files or none, and quotes the colon in them
    [ "${#COMPREPLY[@]}" -gt 0 ] || compopt -o filenames 2>/dev/null
    COMPREPLY+=("${files[@]}")
    case "${COMPREPLY[0]}" in *[=:]) compopt -o nospace 2>/dev/null ;; esac
}
complete -F _ctnr ctnr
"""
_ZSH = """\
#compdef ctnr
# ctnr completion zsh > "${fpath[1]}/_ctnr"
_ctnr() {
    local line word none=1
    local -a found open
    while IFS= read -r line; do
        if [[ "$line" == ":files" ]]; then
            _files && none=0
            continue
        fi
        word="${line%%$'\\t'*}"
        [[ "$line" == "$word" ]] && line="${word//:/\\\\:}" || line="${word//:/\\\\:}:${line#*$'\\t'}"
        [[ "$word" == *[=:] ]] && open+=("$line") || found+=("$line")
    done < <("${words[1]}" completion - "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe ctnr found && none=0
    (( $#open )) && _describe ctnr open -S '' && none=0
    return none
}
if [[ "$funcstack[1]" == "_ctnr" ]]; then _ctnr "$@"; else compdef _ctnr ctnr; fi
"""
_FISH = """\
# ctnr completion fish > ~/.config/fish/completions/ctnr.fish
function __ctnr_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] completion - $words[2..] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c ctnr -f -a "(__ctnr_complete)"
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(service: Service, options: Parsed) -> int:
    shell = options.args[0]
    if shell == "-":
        found = candidates(service, options.args[1:])
        write("".join(f"{word}\t{about}\n" if about else f"{word}\n" for word, about in found))
        return 0
    if shell not in _SCRIPTS:
        raise UsageError(f"completion {shell}: not known", cure=f"one of: {', '.join(SHELLS)}")
    write(_SCRIPTS[shell])
    return 0


def candidates(service: Service, words: list[str]) -> list[tuple[str, str]]:
    """What the last of `words` may become; that bash begins another word at = and : is understood."""
    *before, word = _joined(words or [""])
    cut = 0  # what of the last word is another word to the shell, and stays as it is
    if word != words[-1:][0] or word in _BREAKS:
        cut = max(word.rfind(one) for one in _BREAKS) + 1
    try:
        return sorted(
            {
                (one if one == FILES else one[cut:], about)
                for one, about in _find(service, before, word)
                if (one.startswith(word) and len(one) > cut) or one == FILES
            }
        )
    except ClientError:
        return []  # a line that is wrong already, or a service that does not answer


def _joined(words: list[str]) -> list[str]:
    """``--network = host`` as it was typed: ``--network=host``."""
    joined: list[str] = []
    glued = False
    for word in words:
        if joined and (word in _BREAKS or glued):
            joined[-1] += word
        else:
            joined.append(word)
        glued = word in _BREAKS
    return joined


def _find(service: Service, before: list[str], word: str) -> Candidates:
    from ctnr.cli.main import find_command, global_options

    while before and before[0].startswith("-"):
        option = _option_of(global_options(), before[0].partition("=")[0])
        taken = 1 if option is None or option.kind == "flag" or "=" in before[0] else 2
        if len(before) < taken:
            return _value(service, None, option, "")
        before = before[taken:]
    if not before:
        return _options(global_options()) if word.startswith("-") else _commands("")
    if len(before) == 1 and (below := list(_commands(before[0] + " "))):
        if before[0] not in _lone_commands():
            return below
        return [*below, *_inside(service, *find_command(before), word)]
    return _inside(service, *find_command(before), word)


def _inside(service: Service, command: Command, before: list[str], word: str) -> Candidates:
    """Behind the words of a command."""
    args: list[str] = []
    awaited: Option | None = None
    at = 0
    while at < len(before):
        text = before[at]
        at += 1
        if text.startswith("-") and text != "-" and not (command.stops and args):
            name, equals, _ = text.partition("=")
            option = _option_of(command.options, name)
            if option is None or option.kind == "flag" or equals or (name[1:2] != "-" and len(name) > 2):
                continue
            awaited = option if at >= len(before) else None
            at += 1
        else:
            args.append(text)
    if awaited is not None:
        return _value(service, command, awaited, word)
    if word.startswith("-") and not (command.stops and args):
        name, equals, value = word.partition("=")
        if equals and (option := _option_of(command.options, name)) is not None:
            return [
                (f"{name}={one}", about)
                for one, about in _value(service, command, option, value)
                if one != FILES
            ]
        return _options(command.options)
    return _argument(service, command, len(args))


def _argument(service: Service, command: Command, place: int) -> Candidates:
    kinds = command.arguments.split()
    if not kinds:
        return ()
    if place >= len(kinds) or kinds[place] == "…":
        if kinds[-1] != "…" or command.stops:
            return [(FILES, "")]
        place = len(kinds) - 2
    kind = kinds[place].strip("[]")
    group = command.name.partition(" ")[0]
    if kind == "NAME" and group == "net":
        kind = "NETWORK"
    if kind == "BUNDLE" or (kind == "NAME" and group == "bundle"):
        return _SOURCES["BUNDLE"](service)
    if kind == "SHELL":
        return [(shell, "") for shell in SHELLS]
    if kind == "NAME":
        return ()  # a new one
    if kind in _SOURCES:
        return _SOURCES[kind](service)
    if kind.startswith("NAME:PATH"):
        return [(FILES, ""), *((f"{name}:", about) for name, about in _SOURCES["CONTAINER"](service))]
    return [(FILES, "")]


def _value(service: Service, command: Command | None, option: Option | None, word: str) -> Candidates:
    if option is None:
        return ()
    sources = {kind: partial(source, service) for kind, source in _SOURCES.items()}
    return values_of(command, option, word, sources)


def _commands(prefix: str) -> Candidates:
    from ctnr.cli.main import ALIASES, COMMANDS, GROUPS

    found: dict[str, str] = {}
    for name, (_, summary) in COMMANDS.items():
        if name.startswith(prefix):
            first, blank, _ = name[len(prefix) :].partition(" ")
            found.setdefault(first, "" if blank else summary)
    for name, meant in ALIASES.items():
        if prefix and name.startswith(prefix):
            found.setdefault(name[len(prefix) :], COMMANDS[meant][1])
    if not prefix:
        found |= {group: "" for group in GROUPS if group not in found} | {"help": "tell more"}
    return found.items()


def _lone_commands() -> set[str]:
    from ctnr.cli.main import COMMANDS

    return {name for name in COMMANDS if " " not in name}


def _options(options: tuple[Option, ...]) -> Candidates:
    return [(f"--{option.name}", option.help) for option in options] + [("--help", "")]


def _option_of(options: tuple[Option, ...], text: str) -> Option | None:
    for option in options:
        if text in (f"--{option.name}", *(f"--{alias}" for alias in option.aliases)):
            return option
        if text[:1] == "-" and text[1:2] != "-" and option.short and text[-1:] == option.short:
            return option
    return None


def _named(service: Service, op: str, name: Callable[[Event], Candidates], **fields: object) -> Candidates:
    from ctnr.cli.request import base_request
    from ctnr.client.session import ask

    if service.in_process:
        return []
    rows = ask(service, {**base_request(op), **fields}, start=False) or []
    return [one for row in rows for one in name(row)]


def _container(row: Event) -> Candidates:
    return [(row["name"], row.get("image") or ""), (row["id"][:12], row["name"])]


def _image(row: Event) -> Candidates:
    names = row["names"] or [row["id"][:12]]
    return [(short, "") for name in names for short in {name, name.removeprefix("docker.io/library/")}]


def _network(row: Event) -> Candidates:
    return [(row["name"], row.get("driver") or "")]


def _volume(row: Event) -> Candidates:
    return [(row["Name"], ", ".join(row["Containers"]))]


def _bundle(row: Event) -> Candidates:
    return [(row["name"], row.get("image") or "")]


_SOURCES: dict[str, Callable[[Service], Candidates]] = {
    "CONTAINER": lambda service: _named(service, "ps", _container, all=True),
    "IMAGE": lambda service: _named(service, "images", _image),
    "NETWORK": lambda service: _named(service, "net-list", _network),
    "BUNDLE": lambda service: _named(service, "bundle-list", _bundle),
    "VOLUME": lambda service: _named(service, "volume-list", _volume),
}

COMMANDS = {
    "completion": Command(
        "completion", "SHELL", "Print the completion script of bash, zsh or fish.", (), completion, least=1, stops=True
    ),
}  # fmt: skip
