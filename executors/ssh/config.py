"""What ~/.ssh/config says for one host: `ssh -G` for the options that fleetflow heeds."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from executors.ssh.jumps import Hop
from executors.ssh.options import Options, Setting, read_setting
from executors.ssh.tokens import Tokens, local_user, replace
from models.sshconfig import Block, Line, Source, default_path, read, walk
from models.values import HostKeyPolicy
from models.wildcards import lower, matches, matches_list

SYSTEM_PATH = Path("/etc/ssh/ssh_config")
_EXEC_TIMEOUT = 10.0  # seconds; OpenSSH waits for ever


@dataclass(frozen=True, kw_only=True)
class HostConfig:
    """What the configuration says for one host; None is "not said"."""

    hostname: str  # where to connect: HostName with %h replaced, else the name itself
    port: int | None = None
    user: str | None = None
    identity_files: tuple[Path, ...] | None = None  # empty: none at all, not even the default ones
    certificate_files: tuple[Path, ...] = ()
    identities_only: bool | None = None
    identity_agent: str | None = None  # path of a socket, or "none"; not said: SSH_AUTH_SOCK
    proxy_jump: tuple[Hop, ...] | None = None  # nearest first, whose own ProxyJump counts too; empty: "none"
    proxy_command: str | None = None  # for the shell; never beside hops
    user_known_hosts_files: tuple[Path, ...] = ()  # those of OpenSSH unless said
    global_known_hosts_files: tuple[Path, ...] = ()
    strict_host_key_checking: HostKeyPolicy | None = None
    host_key_alias: str | None = None  # looked up instead of name and port
    hash_known_hosts: bool | None = None
    no_host_authentication_for_localhost: bool | None = None
    host_key_algorithms: str | None = None  # as written: `select_algorithms` makes the list
    connect_timeout: int | None = None  # seconds
    server_alive_interval: int | None = None  # seconds
    server_alive_count_max: int | None = None
    preferred_authentications: tuple[str, ...] | None = None
    pubkey_authentication: bool | None = None
    password_authentication: bool | None = None
    kbd_interactive_authentication: bool | None = None
    address_family: socket.AddressFamily | None = None
    bind_address: str | None = None


class ClientConfig:
    """The client configuration, read once and again when one of its files changes; may be used from several threads.

    `system` is read behind the user's file as OpenSSH does: only when that is the default one. A lookup may run the
    commands of `Match exec`, so it may block.
    """

    def __init__(self, path: Path, *, system: Path | None = SYSTEM_PATH) -> None:
        self._path = path
        self._system = system if path.expanduser() == default_path() else None
        self._lock = threading.Lock()
        self._rules: _Rules | None = None
        self._found: dict[tuple[str, str | None, int | None], HostConfig] = {}

    def lookup(self, name: str, *, user: str | None = None, port: int | None = None) -> HostConfig:
        """Evaluate the configuration for a name as typed, with a user and a port as `ssh -l -p`; raises `SettingsError`."""
        with self._lock:
            if self._rules is None or self._rules.have_changed():
                self._rules, self._found = self._load(), {}
            rules, cache = self._rules, self._found
        found = cache.get((name, user, port)) or _Evaluation(rules, name, user, port).run()
        if not rules.run_commands:
            cache[name, user, port] = found
        return found

    def is_current(self) -> bool:
        """Whether every lookup would still find what it found before."""
        with self._lock:
            return self._rules is not None and not self._rules.run_commands and not self._rules.have_changed()

    def _load(self) -> "_Rules":
        sources = [read(self._path)]
        if self._system is not None:
            sources.append(read(self._system, system=True))
        return _Rules.compile(sources)


@dataclass(frozen=True)
class _Rules:
    """The blocks with their conditions and values read."""

    sources: Sequence[Source]
    blocks: "Sequence[_Rule]"
    want_final_pass: bool
    run_commands: bool

    @classmethod
    def compile(cls, sources: Sequence[Source]) -> "_Rules":
        blocks = tuple(_Rule.compile(block) for source in sources for block in source.blocks)
        conditions = [condition for source in sources for block in walk(source.blocks) for condition in _conditions(block.head)]
        final = any(condition.kind == "final" and not condition.negated for condition in conditions)
        return cls(sources, blocks, final, any(condition.kind == "exec" for condition in conditions))

    def have_changed(self) -> bool:
        return any(source.has_changed() for source in self.sources)


@dataclass(frozen=True, slots=True)
class _Rule:
    head: Line | None
    names: frozenset[str]  # of a Host line, those without wildcard
    patterns: tuple[str, ...]  # of a Host line, the others
    conditions: "tuple[_Condition, ...]"
    items: "tuple[Setting | tuple[_Rule, ...], ...]"

    @classmethod
    def compile(cls, block: Block) -> "_Rule":
        args = block.head.args if block.head and block.head.keyword == "host" else ()
        patterns = tuple(arg for arg in args if set(arg) & set("*?!"))
        return cls(block.head, frozenset(args) - set(patterns), patterns, _conditions(block.head), tuple(_compile_items(block)))

    def fits(self, name: str) -> bool:
        """A Host line: one of its patterns, and none of those behind a `!`."""
        if not self.patterns:
            return name in self.names
        if any(pattern.startswith("!") and matches(name, pattern[1:]) for pattern in self.patterns):
            return False
        return name in self.names or any(matches(name, pattern) for pattern in self.patterns if not pattern.startswith("!"))


def _compile_items(block: Block) -> "Iterator[Setting | tuple[_Rule, ...]]":
    for item in block.items:
        if isinstance(item, tuple):
            yield tuple(_Rule.compile(inner) for inner in item)
        elif (setting := read_setting(item)) is not None:
            yield setting


@dataclass(frozen=True, slots=True)
class _Condition:
    """One criterion of a Match line."""

    kind: str
    negated: bool
    value: str


_WITHOUT_VALUE = frozenset({"all", "final", "canonical"})
_WITH_VALUE = frozenset({"host", "originalhost", "user", "localuser", "exec", "tagged", "sessiontype"})


def _conditions(head: Line | None) -> tuple[_Condition, ...]:
    if head is None or head.keyword != "match":
        return ()
    return tuple(_read_conditions(head))


def _read_conditions(head: Line) -> Iterator[_Condition]:
    words = iter(head.args)
    for count, word in enumerate(words):
        kind, equals, value = word.removeprefix("!").partition("=")
        kind = kind.lower()
        if kind in _WITHOUT_VALUE and not equals:
            if kind == "all" and len(head.args) > count + 1:
                raise head.error("match: 'all' stands alone")
        elif kind in _WITH_VALUE:
            value = value if equals else next(words, "")
            if not value and kind != "tagged":
                raise head.error(f"match: {kind} lacks a value")
        else:
            raise head.error(f"match: {kind!r} is not a criterion that fleetflow can judge")
        yield _Condition(kind, word.startswith("!"), value)


@dataclass
class _Evaluation:
    """One walk through the rules for one host."""

    rules: _Rules
    name: str
    user: str | None
    port: int | None
    options: Options = field(default_factory=Options)
    final_host: str | None = None  # the host's address, in the second pass

    def run(self) -> HostConfig:
        self.options = Options(user=self.user, port=self.port)
        self._apply(self.rules.blocks)
        hostname = self._canonical(self._hostname())
        if self.rules.want_final_pass or self.options.canonicalize_hostname:
            self.final_host = hostname
            self._apply(self.rules.blocks)
        return _build(self.options, self.name, hostname, typed_user=self.user)

    def _apply(self, rules: "Sequence[_Rule]") -> None:
        for rule in rules:
            for item in rule.items if self._holds(rule) else ():
                if isinstance(item, tuple):
                    self._apply(item)
                else:
                    self.options.apply(item)

    def _holds(self, rule: _Rule) -> bool:
        if rule.head is None:
            return True
        if rule.head.keyword == "host":
            return rule.fits(self.final_host or self.name)
        return all(self._check(condition, rule.head) is not condition.negated for condition in rule.conditions)

    def _check(self, condition: _Condition, head: Line) -> bool:
        value = condition.value
        match condition.kind:
            case "all":
                return True
            case "final" | "canonical":
                return self.final_host is not None
            case "host":
                return matches_list(lower(self.final_host or self._hostname()), lower(value))
            case "originalhost":
                return matches_list(lower(self.name), lower(value))
            case "user":
                return matches_list(self.options.user or local_user(), value)
            case "localuser":
                return matches_list(local_user(), value)
            case "tagged":
                return matches_list(self.options.tag, value) if self.options.tag else not value
            case "sessiontype":
                return matches_list("exec", value)
            case _:
                return self._run(value, head)

    def _run(self, command: str, head: Line) -> bool:
        tokens = Tokens(self.options, self.name, self.final_host or self._hostname())
        tokens.set_user(self.options.user or local_user())
        shell = os.environ.get("SHELL") or "/bin/sh"
        arguments = [shell, "-c", replace(command, tokens.values, head)]
        quiet = subprocess.DEVNULL
        try:
            ended = subprocess.run(arguments, stdin=quiet, stdout=quiet, stderr=quiet, timeout=_EXEC_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise head.error(f"match exec took longer than {_EXEC_TIMEOUT:g} s") from None
        except OSError as error:
            raise head.error(f"match exec: {shell}: {error.strerror}") from None
        if ended.returncode < 0:
            raise head.error(f"match exec: the command was ended by signal {-ended.returncode}")
        return ended.returncode == 0

    def _hostname(self) -> str:
        if self.options.hostname is None:
            return self.name
        return replace(self.options.hostname, {"h": self.name}, self.options.lines.get("hostname"))

    @staticmethod
    def _canonical(hostname: str) -> str:
        """Addresses as the system writes them, so that known_hosts finds 127.1 as 127.0.0.1; names in lower case."""
        try:
            found = socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except OSError:
            return lower(hostname)
        return str(found[0][4][0])


def _build(options: Options, name: str, hostname: str, *, typed_user: str | None) -> HostConfig:
    """Replace the tokens where OpenSSH does, and leave what is not said at None."""
    tokens = Tokens(options, name, hostname)
    user = typed_user or (tokens.expand(options.user, "user") if options.user else None)
    tokens.set_user(user or local_user())
    direct = options.proxy_command is not None and options.proxy_command.lower() == "none"
    return HostConfig(
        hostname=hostname,
        port=options.port,
        user=user,
        identity_files=_paths(tokens, options.identity_files, "identity_files"),
        certificate_files=_paths(tokens, options.certificate_files, "certificate_files") or (),
        identities_only=options.identities_only,
        identity_agent=_agent(tokens, options.identity_agent),
        proxy_jump=() if direct else _hops(tokens, options.proxy_jump),
        proxy_command=None if direct else _proxy_command(tokens, options.proxy_command),
        user_known_hosts_files=_known_hosts(tokens, options.user_known_hosts_files),
        global_known_hosts_files=_global_known_hosts(options),
        strict_host_key_checking=options.strict_host_key_checking,
        host_key_alias=lower(options.host_key_alias) if options.host_key_alias else None,
        hash_known_hosts=options.hash_known_hosts,
        no_host_authentication_for_localhost=options.no_host_authentication_for_localhost,
        host_key_algorithms=options.host_key_algorithms,
        connect_timeout=options.connect_timeout,
        server_alive_interval=options.server_alive_interval,
        server_alive_count_max=options.server_alive_count_max,
        preferred_authentications=tuple(options.preferred_authentications) if options.preferred_authentications else None,
        pubkey_authentication=options.pubkey_authentication,
        password_authentication=options.password_authentication,
        kbd_interactive_authentication=options.kbd_interactive_authentication,
        address_family=options.address_family,
        bind_address=options.bind_address,
    )


def _paths(tokens: Tokens, texts: Sequence[str] | None, option: str) -> tuple[Path, ...] | None:
    if texts is None:
        return None
    return tuple(tokens.expand_path(text, option) for text in texts if text.lower() != "none")


def _known_hosts(tokens: Tokens, texts: Sequence[str] | None) -> tuple[Path, ...]:
    return _paths(tokens, texts or ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"], "user_known_hosts_files") or ()


def _global_known_hosts(options: Options) -> tuple[Path, ...]:
    """OpenSSH replaces ~ in these, and no token."""
    texts = options.global_known_hosts_files or ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
    return tuple(Path(text).expanduser() for text in texts if text.lower() != "none")


def _agent(tokens: Tokens, text: str | None) -> str | None:
    if text is None or text == "SSH_AUTH_SOCK":
        return None
    if text.startswith("$") and not text.startswith("${"):
        return os.environ.get(text[1:], "none")
    return str(tokens.expand_path(text, "identity_agent"))


def _hops(tokens: Tokens, hops: Sequence[Hop] | None) -> tuple[Hop, ...] | None:
    if hops is None:
        return None
    return tuple(
        Hop(tokens.expand(hop.host, "proxy_jump", "hnpr"), hop.port, hop.user and tokens.expand(hop.user, "proxy_jump", "hnpr"))
        for hop in hops
    )


def _proxy_command(tokens: Tokens, command: str | None) -> str | None:
    return None if command is None else tokens.expand(command, "proxy_command", "hknpr")
