"""exec: one more program in a running container. In a file of its own because it is the quickest command there is."""

from __future__ import annotations

from ctnr.cli.grammar import Command, Option, Parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.client.connect import Service


def exec_in(service: Service, options: Parsed) -> int:
    """`ctnr exec [OPTIONS] CONTAINER COMMAND …`"""
    from ctnr.cli import request as build
    from ctnr.cli.tell import Teller
    from ctnr.client.session import ask, run_foreground

    request = build.base_request("exec")
    args = options.args
    if options.flag("latest"):
        from ctnr.cli.choosing import with_latest

        args = with_latest(service, options)
    request["container"], request["args"] = args[0], args[1:]
    for key in ("interactive", "tty", "detach", "privileged"):
        if options.flag(key):
            request[key] = True
    for key in ("workdir", "user"):
        if options.given(key):
            request[key] = options.text(key)
    environment = [entry for path in options.list("env_file") for entry in build.read_env_file(path)]
    if environment := environment + build.resolve_env(options.list("env")):
        request["env"] = environment
    tty = options.flag("tty")
    if tty:
        build.add_terminal(request)
    teller = Teller()
    if options.flag("detach"):
        ask(service, request, tell=teller)
        return 0
    keys = options.text("detach_keys")
    if keys is not None:
        from ctnr.client.tty import DetachKeys

        DetachKeys(keys)  # raises before anything has been started
    return run_foreground(
        service, request, tell=teller, tty=tty, interactive=options.flag("interactive"),
        detach_keys="ctrl-p,ctrl-q" if keys is None else keys,
        forward_signals=options.flag("sig_proxy", default=True),
    )  # fmt: skip


COMMANDS = {
    "exec": Command(
        "exec",
        "CONTAINER COMMAND …",
        "Run one more program in a running container.",
        (
            Option("detach", "flag", "run it in the background", short="d"),
            Option(
                "detach-keys",
                "text",
                'keys that detach from it, "" for none [ctrl-p,ctrl-q]',
                metavar="KEYS",
            ),
            Option(
                "env", "list", "set a variable, or pass on the caller's", short="e", metavar="NAME[=VALUE]"
            ),
            Option("env-file", "list", "read variables from a file", metavar="FILE"),
            Option("interactive", "flag", "connect standard input", short="i"),
            Option("latest", "flag", "in the container that was made last", short="l"),
            Option("privileged", "flag", "give it all capabilities of the container"),
            Option("sig-proxy", "flag", "pass signals on to the program [true]"),
            Option("tty", "flag", "give it a terminal", short="t"),
            Option("user", "text", "user and group inside", short="u", metavar="USER[:GROUP]"),
            Option("workdir", "text", "directory to start in", short="w", metavar="DIR", aliases=("cwd",)),
        ),
        exec_in,
        least=2,
        stops=True,
    )
}
