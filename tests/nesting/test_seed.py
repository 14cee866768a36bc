"""The seed's text, word for word, both terminals; and what goes beyond it: ports in there, and one more level."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.world.internet import Internet
from tests.world.people import Person, Result
from tests.world.terminal import Terminal, plain

SECONDS = 60
PROMPT = r"/ # "
OUTER = """\
dist/bin/ctnr run -ti -b test --update --privileged \\
	-v "$(pwd)/dist:/usr/local" \\
	-v "$(pwd)/image-policy-example.json:/etc/containers/policy.json" \\
	-v "$HOME/.ctnr:/root/.ctnr" \\
	--network=slirp \\
	--image-policy=image-policy-example.json \\
	docker://alpine:3.8"""
ALONE = OUTER.replace('\t-v "$HOME/.ctnr:/root/.ctnr" \\\n', "")
# the same once more, from inside: what lies there is what was mounted there
INNER = (
    "ctnr run -ti -b inner --privileged -v /usr/local:/usr/local -v /root/.ctnr:/root/.ctnr"
    " -v /etc/containers/policy.json:/etc/containers/policy.json --network=slirp docker://alpine:3.8"
)


@contextmanager
def outer_container(person: Person, repository: Path, command: str = OUTER) -> Iterator[Terminal]:
    """Terminal 1, in the repository's directory: the outer container's shell."""
    with person.terminal(["sh", "-c", f"cd {repository} && {command}"], columns=200) as terminal:
        terminal.expect(PROMPT, SECONDS)
        yield terminal
        terminal.line("exit 0")
        assert terminal.wait(SECONDS) == 0


def shell(person: Person, command: str) -> Result:
    """A command line as it is typed, with what the person's own shell makes of it."""
    return person.run(["sh", "-c", command])


def answer(terminal: Terminal, command: str) -> str:
    """What a command prints, which has to succeed."""
    terminal.line(f"{command} && echo do$((1))ne || echo fa$((1))iled")
    start = len(terminal.output)
    terminal.expect(r"^(do1ne|fa1iled)", SECONDS)
    text = plain(terminal.output[start:])
    assert "\ndo1ne" in f"\n{text}", text
    terminal.expect(PROMPT)
    return text


def test_one_terminal(typist: Person, repository: Path, internet: Internet) -> None:
    with outer_container(typist, repository, ALONE) as first:
        first.line("ip addr")
        first.expect(r"^2: cni0: <BROADCAST,UP,LOWER_UP> mtu 1500 qdisc pfifo_fast")
        first.expect(r"inet 10\.0\.2\.100/24 brd 10\.0\.2\.255 scope global cni0")
        first.expect(PROMPT)
        first.line("wget --spider http://example.org")
        first.expect(r"Connecting to example\.org \(192\.0\.2\.80:80\)")
        first.expect(PROMPT)


def test_two_terminals(typist: Person, repository: Path) -> None:
    for _ in range(2):  # and again in the same bundle, with what a killed service has left in it
        with outer_container(typist, repository) as first:
            first.line("ctnr run -ti --rootless --network=slirp,bridge docker://alpine:3.8")
            first.expect(PROMPT, SECONDS)
            first.line("ip -4 route get 10.2.0.0 | awk {'print $6'}")
            first.expect(r"^10\.2\.0\.2\s", SECONDS)
            first.expect(PROMPT)
            first.line("nc -lk -p 8080 -e echo hello")
            first.expect("echo hello")
            second = "ctnr exec test ctnr run --rootless --network=slirp,bridge docker://alpine:3.8 nc 10.2.0.2 8080"
            for _ in range(3):
                assert shell(typist, second).ok.stdout == "hello\n"
            assert "[python" not in shell(typist, "ctnr exec test ps").ok.stdout, "a zombie"
            first.ctrl("c")
            first.expect(PROMPT, SECONDS)
            first.line("exit")
            first.expect(PROMPT, SECONDS)
    known = {
        typist.store_dir / "containers" / line
        for line in typist.ctnr("ps", "-aq", "--no-trunc").ok.stdout.split()
    }
    assert known == set((typist.store_dir / "containers").iterdir()), (
        "those of the outer container went with it"
    )
    assert [typist.store_dir / "bundles/test"] == list((typist.store_dir / "bundles").iterdir())


def test_killed_with_all_that_is_in_it(typist: Person, repository: Path) -> None:
    """The leak guard looks for what stays."""
    with typist.terminal(["sh", "-c", f"cd {repository} && exec {OUTER}"]) as first:
        first.expect(PROMPT, SECONDS)
        first.line("ctnr run -ti --rootless --network=slirp,bridge docker://alpine:3.8")
        first.expect(PROMPT, SECONDS)
    deadline = time.monotonic() + SECONDS
    while "test" in shell(typist, "ctnr ps --format '{{.Names}}'").ok.stdout.split():
        assert time.monotonic() < deadline, "the outer container still runs"
    typist.ctnr("rm", "-f", "test").ok  # noqa: B018


def test_what_the_outer_container_can_do_for_its_own(
    typist: Person, repository: Path, internet: Internet
) -> None:
    """Without --rootless, bridge, masquerade and ports are in the outer container's own network."""
    with outer_container(typist, repository) as first:
        run_in = "ctnr run --rm --network=bridge docker://alpine:3.8"
        assert "inet 10.2.0.2/24" in answer(first, f"{run_in} ip addr show cni0")
        assert "Seccomp:\t2" in answer(first, f"{run_in} grep Seccomp: /proc/self/status")
        answer(first, f"{run_in} wget --spider http://example.org")
        server = "nc -lk -p 80 -e echo from inside"
        answer(first, f"ctnr run -d --name=web --network=bridge -p 8080:80 docker://alpine:3.8 {server}")
        assert "inet 10.2.0.1/24" in answer(first, "ip addr show ctnr-bridge")
        assert "tcp dpt:8080" in answer(first, "iptables -t nat -nL")
        assert "from inside" in answer(first, f"{run_in} nc 10.0.2.100 8080")
        answer(first, "ctnr rm -f web")
        assert "8080" not in answer(first, "iptables -t nat -nL")


def test_two_levels(typist: Person, repository: Path, internet: Internet) -> None:
    with outer_container(typist, repository) as first:
        first.line(INNER)
        first.expect(PROMPT, SECONDS)
        text = answer(first, "ctnr run --rootless --network=slirp,bridge docker://alpine:3.8 ip addr")
        assert "inet 10.0.2.100/24" in text
        assert "inet 10.2.0.2/24" in text
        answer(
            first,
            "ctnr run --rm --rootless --network=slirp docker://alpine:3.8 wget --spider http://example.org",
        )
        first.line("exit")
        first.expect(PROMPT, SECONDS)
