"""The text of OpenSSH client files: lines, blocks and includes, as ssh_config(5) and OpenSSH's readconf.c read them.

What a block means for a host is decided in executors/ssh/config.py.
"""

import glob
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from grp import getgrgid
from pathlib import Path

from models.errors import SettingsError
from models.wildcards import matches_list

Stamp = tuple[int, int, int]
_MAX_DEPTH = 16
_VARIABLE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its keyword in lower case, its arguments without quotes, and the text they were cut from."""

    keyword: str
    args: tuple[str, ...]
    text: str
    path: Path
    number: int

    def error(self, reason: str) -> SettingsError:
        return SettingsError(f"{self.path}:{self.number}", reason)

    def expand_home(self, text: str) -> Path:
        """Replace a leading ~ or ~user; ~ is $HOME."""
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise self.error(f"there is no home folder for {text}") from None

    def expand_environment(self, text: str) -> str:
        """Replace ${NAME}."""
        try:
            return _VARIABLE.sub(lambda found: os.environ[found[1]], text)
        except KeyError as error:
            raise self.error(f"the environment has no {error.args[0]}") from None


@dataclass(frozen=True, slots=True)
class Block:
    """What stands under a `Host` or `Match` line; `head` is None for what stands above the first one of a file.

    An `Include` stands in its place as the tuple of the blocks of one file: they count only where this block does.
    """

    head: Line | None
    items: "tuple[Line | tuple[Block, ...], ...]"


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration as it was read, and what it was read from."""

    blocks: tuple[Block, ...]
    stamps: Mapping[Path, Stamp | None]

    def has_changed(self) -> bool:
        return any(stamp(path) != was for path, was in self.stamps.items())


def default_path() -> Path:
    """~/.ssh/config of $HOME; the passwd entry counts only when HOME is not set."""
    return Path("~/.ssh/config").expanduser()


def parse(path: Path) -> list[Block]:
    """Read a user's configuration file with its includes; raises `SettingsError` with file and line."""
    return list(read(path).blocks)


def read(path: Path, *, system: bool = False) -> Source:
    """Read like `parse`, and remember the files; a `system` file resolves includes against its own folder, and may be missing."""
    return _Reader(path.expanduser(), system=system).read()


def literal_names(path: Path) -> frozenset[str]:
    """Names on `Host` lines without wildcard or negation, includes followed."""
    heads = (block.head for block in walk(parse(path)))
    return frozenset(name for head in heads if head and head.keyword == "host" for name in head.args if not set(name) & set("*?!"))


def walk(blocks: "list[Block] | tuple[Block, ...]") -> Iterator[Block]:
    """All blocks in the order of reading, those of included files too."""
    for block in blocks:
        yield block
        for item in block.items:
            if isinstance(item, tuple):
                yield from walk(item)


def stamp(path: Path) -> Stamp | None:
    """What tells one content of a file from the next: time of change, size and inode. None when there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class _Reader:
    def __init__(self, path: Path, *, system: bool) -> None:
        self._path = path
        self._system = system
        self._folder = path.parent if system else default_path().parent
        self._stamps: dict[Path, Stamp | None] = {}
        self._ignored = ""

    def read(self) -> Source:
        if str(self._path) == "none":  # as `ssh -F none`
            return Source((), {})
        is_default = self._path == default_path()
        try:
            blocks = self._read_file(self._path, depth=0, check=is_default)
        except FileNotFoundError:
            if not (is_default or self._system):
                raise SettingsError(str(self._path), "there is no such file") from None
            blocks = ()
        return Source(blocks, self._stamps)

    def _read_file(self, path: Path, *, depth: int, check: bool) -> tuple[Block, ...]:
        self._stamps[path] = stamp(path)
        try:
            with path.open("rb") as file:
                if check:
                    _check_owner(path, os.fstat(file.fileno()))
                text = file.read().decode(errors="surrogateescape")
        except IsADirectoryError:
            return ()  # a folder that a glob met is an empty file to OpenSSH
        except PermissionError as error:
            raise SettingsError(str(path), str(error.strerror)) from None
        return self._group(path, text, depth)

    def _group(self, path: Path, text: str, depth: int) -> tuple[Block, ...]:
        blocks: list[Block] = []
        head: Line | None = None
        items: list[Line | tuple[Block, ...]] = []
        for line in self._lines(path, text):
            if line.keyword in {"host", "match"}:
                blocks.append(Block(head, tuple(items)))
                head, items = line, []
            elif line.keyword == "include":
                items.extend(self._include(line, depth))
            else:
                items.append(line)
        blocks.append(Block(head, tuple(items)))
        return tuple(blocks)

    def _lines(self, path: Path, text: str) -> Iterator[Line]:
        for number, raw in enumerate(text.split("\n"), 1):
            line = _read_line(raw, path, number)
            if line is None:
                continue
            if line.keyword not in KEYWORDS and not matches_list(line.keyword, self._ignored):
                raise line.error(f"unknown keyword {line.keyword!r}; if it is meant, name it on an IgnoreUnknown line above")
            if line.keyword == "ignoreunknown":
                self._ignored = self._ignored or line.args[0].lower()
            yield line

    def _include(self, line: Line, depth: int) -> Iterator[tuple[Block, ...]]:
        if depth == _MAX_DEPTH:
            raise line.error(f"includes are nested deeper than {_MAX_DEPTH}")
        for pattern in line.args:
            if self._system and pattern.startswith("~"):
                raise line.error(f"a system-wide file cannot include {pattern}")
            whole = self._folder / line.expand_home(line.expand_environment(pattern))
            self._watch(whole)
            for found in sorted(glob.glob(str(whole))):  # noqa: PTH207 - Path.glob takes no absolute pattern before Python 3.13
                try:
                    yield self._read_file(Path(found), depth=depth + 1, check=True)
                except FileNotFoundError:
                    continue

    def _watch(self, pattern: Path) -> None:
        """A file that appears or goes changes the time of its folder."""
        folder = pattern if glob.has_magic(str(pattern)) else pattern.parent
        while glob.has_magic(str(folder)):
            folder = folder.parent
        self._stamps[folder] = stamp(folder)


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Whoever can write the file can run commands as us (ProxyCommand), so OpenSSH refuses other people's."""
    group_writes = status.st_mode & stat.S_IWGRP and not _is_private_group(status)
    if status.st_uid not in {0, os.getuid()} or status.st_mode & stat.S_IWOTH or group_writes:
        raise SettingsError(str(path), f"others may write it; chmod go-w {path}")


def _is_private_group(status: os.stat_result) -> bool:
    """Debian's OpenSSH lets the owner's own group write: its umask 002 makes such files."""
    try:
        owner, group = pwd.getpwuid(status.st_uid), getgrgid(status.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}


# A keyword in quotes needs no blank behind it, and has no equals sign.
_LINE = re.compile(
    r"""[ \t\r]* (?: "(?P<quoted>[^"]*)" | (?P<plain>[^ \t\r"=]+) (?=[ \t\r=]|$) [ \t\r]*=? ) [ \t\r]* (?P<value>.*)""",
    re.VERBOSE | re.DOTALL,
)


def _read_line(raw: str, path: Path, number: int) -> Line | None:
    text = raw.rstrip(" \t\r\n\f")
    if not text.strip(" \t\r") or text.lstrip(' \t\r"').startswith("#"):
        return None
    found = _LINE.match(text)
    keyword = (found["quoted"] or found["plain"] or "").lower() if found else ""
    line = Line(keyword, (), found["value"] if found else "", path, number)
    if not keyword:
        raise line.error("there is no keyword")
    try:
        args = split(line.text)
    except ValueError as error:
        raise line.error(str(error)) from None
    if not args or (keyword in {"host", "include"} and not all(args)):
        raise line.error(f"{keyword} lacks a value")
    return Line(keyword, args, line.text, path, number)


# Backslashes escape quotes and themselves everywhere, and blanks outside quotes; elsewhere they stand for themselves.
_PIECE = re.compile(
    r"""
    (?P<blank>[ \t]+)
    | "(?P<double>(?:\\['"\\]|[^"])*+)"
    | '(?P<single>(?:\\['"\\]|[^'])*+)'
    | \\(?P<escaped>['"\\ ])
    | (?P<plain>[^ \t"'\\]+|\\)
    """,
    re.VERBOSE | re.DOTALL,
)


def split(text: str) -> tuple[str, ...]:
    """Cut a line's value into arguments up to a comment; raises `ValueError` for a quote that does not end."""
    args: list[str] = []
    inside = False
    at = 0
    while at < len(text) and (inside or text[at] != "#"):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ValueError("a quote does not end")
        at = piece.end()
        if piece["blank"]:
            inside = False
            continue
        if not inside:
            args.append("")
        inside = True
        args[-1] += _unquote(piece)
    return tuple(args)


def _unquote(piece: re.Match[str]) -> str:
    if (quoted := piece["double"] if piece["double"] is not None else piece["single"]) is not None:
        return re.sub(r"""\\(['"\\])""", r"\1", quoted)
    return piece["escaped"] or piece["plain"]


# ssh_config(5) of OpenSSH 10, older and obsolete words that it still takes, and those of Debian's, Red Hat's and Apple's builds.
_WORDS = """
addkeystoagent addressfamily afstokenpassing batchmode bindaddress bindinterface canonicaldomains canonicalizefallbacklocal
canonicalizehostname canonicalizemaxdots canonicalizepermittedcnames casignaturealgorithms certificatefile
challengeresponseauthentication channeltimeout checkhostip cipher ciphers clearallforwardings compression compressionlevel
connectionattempts connecttimeout controlmaster controlpath controlpersist dsaauthentication dynamicforward
enableescapecommandline enablesshkeysign escapechar exitonforwardfailure fallbacktorsh fingerprinthash
forkafterauthentication forwardagent forwardx11 forwardx11timeout forwardx11trusted gatewayports globalknownhostsfile
globalknownhostsfile2 gssapiauthentication gssapiclientidentity gssapidelegatecredentials gssapikexalgorithms
gssapikeyexchange gssapirenewalforcesrekey gssapiserveridentity gssapitrustdns hashknownhosts host
hostbasedacceptedalgorithms hostbasedauthentication hostbasedkeytypes hostkeyalgorithms hostkeyalias hostname
identitiesonly identityagent identityfile identityfile2 ignoreunknown include ipqos kbdinteractiveauthentication
kbdinteractivedevices keepalive kerberosauthentication kerberostgtpassing kexalgorithms knownhostscommand localcommand
localforward loglevel logverbose macs match nohostauthenticationforlocalhost numberofpasswordprompts
obscurekeystroketiming passwordauthentication permitlocalcommand permitremoteopen pkcs11provider port
preferredauthentications protocol proxycommand proxyjump proxyusefdpass pubkeyacceptedalgorithms pubkeyacceptedkeytypes
pubkeyauthentication refuseconnection rekeylimit remotecommand remoteforward requesttty requiredrsasize revokedhostkeys
rhostsauthentication rhostsrsaauthentication rsaauthentication rsaminsize securitykeyprovider sendenv
serveralivecountmax serveraliveinterval sessiontype setenv skeyauthentication smartcarddevice stdinnull
streamlocalbindmask streamlocalbindunlink stricthostkeychecking syslogfacility tag tcpkeepalive tisauthentication tunnel
tunneldevice updatehostkeys useprivilegedport usekeychain user userknownhostsfile userknownhostsfile2 useroaming usersh
verifyhostkeydns versionaddendum visualhostkey warnweakcrypto xauthlocation
"""
KEYWORDS = frozenset(_WORDS.split())
