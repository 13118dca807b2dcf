"""Target expressions: what they pick, in which order, and how each wrong one is refused."""

import re
import string
import time
import tracemalloc
from collections.abc import Mapping

import pytest
from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet  # type: ignore[import-untyped]  # ClusterShell ships no types
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import FleetflowError, NoHostsError, TargetError, UnknownNameError
from models.inventory import Inventory
from models.ranges import RangeError, expand, fold, natural, split
from models.targets import check_syntax, resolve
from models.values import ExecutorKind, Host

FLEET = {
    **{f"web{number:02}": {"web", "prod"} for number in range(1, 21)},
    **{f"db{number}": {"db", "prod"} for number in range(1, 4)},
    **{f"lab{number}": {"lab"} for number in range(1, 4)},
}


def fleet() -> Inventory:
    hosts: Mapping[str, Host] = {
        name: Host(name=name, user="deploy", groups=frozenset(groups), tags={"dc": "ams" if "web" in groups else "fra"})
        for name, groups in FLEET.items()
    }
    return Inventory(hosts=hosts, places={})


INVENTORY = fleet()


def names(target: str, inventory: Inventory = INVENTORY) -> list[str]:
    return [host.name for host in resolve(target, inventory)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("web07", "web07"),
        ("web[01-20]", "web[01-20]"),
        ("web[01-20/5]", "web[01,06,11,16]"),
        ("web[01-03,07],db2", "db2,web[01-03,07]"),
        ("web0[1-3]", "web[01-03]"),
        ("[db,lab]1", None),
        ("@db", "db[1-3]"),
        ("@db,!db2", "db[1,3]"),
        ("@db!db2", "db[1,3]"),
        ("@prod&@web", "web[01-20]"),
        ("@prod,&@web", "web[01-20]"),
        ("web[01-20],@db,!web07", "db[1-3],web[01-06,08-20]"),
        ("@*!@prod", "lab[1-3]"),
        ("@all!@prod", "lab[1-3]"),
        ("tag:dc=ams", "web[01-20]"),
        ("@prod!tag:dc=ams", "db[1-3]"),
        ("web0*", "web[01-09]"),
        ("web?1,lab*", "lab[1-3],web[01,11]"),
        ("@all!web*!db*", "lab[1-3]"),
        (" web01 , web02 ! web01 ", "web02"),
    ],
)
def test_an_expression_picks_its_hosts(target: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(TargetError, match="bad range"):
            resolve(target, INVENTORY)
    else:
        assert fold(names(target)) == expected


def test_operators_are_taken_from_left_to_right() -> None:
    assert fold(names("@web,@db&@db")) == "db[1-3]"
    assert fold(names("@db!db1,db1")) == "db[1-3]"
    assert fold(names("@db,lab1!@db,db1")) == "db1,lab1"


def test_equal_spellings_collapse_and_others_do_not() -> None:
    assert names("db1,db1,db[1-2]") == ["db1", "db2"]
    assert names("db1,root@db1,db1:22") == ["db1", "db1:22", "root@db1"]


def test_the_order_is_that_of_clustershell_and_not_of_the_text() -> None:
    scrambled = ["web10", "web9", "web09", "a", "db2", "web1.x", "web100", "db10"]
    assert sorted(scrambled, key=natural) == list(NodeSet.fromlist(scrambled, resolver=RESOLVER_NOGROUP))
    assert names("web10,db2,web02,db1") == ["db1", "db2", "web02", "web10"]


def test_a_plain_host_takes_what_the_inventory_says_of_its_name() -> None:
    (host,) = resolve("root@web01:2222", INVENTORY)
    assert (host.name, host.address, host.user, host.port) == ("root@web01:2222", "web01", "root", 2222)
    assert host.groups == {"web", "prod"}
    (host,) = resolve("web01:2222", INVENTORY)
    assert (host.user, host.port) == ("deploy", 2222)


@pytest.mark.parametrize(
    ("target", "address", "user", "port"),
    [
        ("root@elsewhere", "elsewhere", "root", None),
        ("elsewhere:2222", "elsewhere", None, 2222),
        ("10.0.0.1", None, None, None),
        ("root@10.0.0.1:22", "10.0.0.1", "root", 22),
        ("::1", None, None, None),
        ("[::1]", "::1", None, None),
        ("[::1]:22", "::1", None, 22),
        ("root@[fe80::1%eth0]:22", "fe80::1%eth0", "root", 22),
    ],
)
def test_a_user_a_port_or_an_address_makes_a_plain_host(target: str, address: str | None, user: str | None, port: int | None) -> None:
    (host,) = resolve(target, Inventory(hosts={}, places={}))
    assert host == Host(name=target, address=address, user=user, port=port)


def test_ranges_of_addresses_and_ports() -> None:
    assert names("10.0.0.[9-11]") == ["10.0.0.9", "10.0.0.10", "10.0.0.11"]
    assert names("x[1-2]:[22-23]") == ["x1:22", "x1:23", "x2:22", "x2:23"]
    assert names("rack[1-2]-node[08-09]:22") == ["rack1-node08:22", "rack1-node09:22", "rack2-node08:22", "rack2-node09:22"]


def test_localhost_is_local_unless_a_user_or_port_is_spelled() -> None:
    assert [host.executor for host in resolve("localhost", INVENTORY)] == [ExecutorKind.LOCAL]
    assert [host.executor for host in resolve("root@localhost", INVENTORY)] == [ExecutorKind.SSH]
    assert [host.executor for host in resolve("localhost:2222", INVENTORY)] == [ExecutorKind.SSH]
    assert "localhost" not in names("@all")


def test_a_host_with_an_agent_is_reached_by_it_unless_a_user_or_port_is_spelled() -> None:
    inventory = Inventory(hosts={"web1": Host(name="web1", executor=ExecutorKind.AGENT)}, places={})
    assert [host.executor for target in ("web1", "root@web1", "web1:22") for host in resolve(target, inventory)] == [
        ExecutorKind.AGENT,
        ExecutorKind.SSH,
        ExecutorKind.SSH,
    ]


@pytest.mark.parametrize("rest", ["{}", "@web,{}", "@web!{}", "@web,!{}", "@web&{}", "@web!@web,{}"])
@pytest.mark.parametrize(
    ("operand", "kind", "name"),
    [
        ("web99", "host", "web99"),
        ("web[19-21]", "host", "web21"),
        ("zzz*", "host", "zzz*"),
        ("@typo", "group", "typo"),
        ("tag:typo=ams", "tag", "typo"),
        ("tag:dc=typo", "tag", "dc=typo"),
    ],
)
def test_an_unknown_name_is_an_error_in_every_operand(rest: str, operand: str, kind: str, name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve(rest.format(operand), INVENTORY)
    assert (caught.value.kind, caught.value.name, caught.value.exit_code) == (kind, name, 2)


@pytest.mark.parametrize("target", ["@web!@web", "@web,!@web", "@web&@db", "web01&web02"])
def test_a_right_expression_without_hosts_has_its_own_error(target: str) -> None:
    with pytest.raises(NoHostsError) as caught:
        resolve(target, INVENTORY)
    assert caught.value.exit_code == 3


def test_an_empty_inventory_has_no_hosts_rather_than_a_wrong_target() -> None:
    with pytest.raises(NoHostsError):
        resolve("@all", Inventory(hosts={}, places={}))


@pytest.mark.parametrize("target", ["@web,!10.0.0.9", "@web,!root@web01", "web01:22,!web01:2222"])
def test_excluding_a_plain_host_that_is_not_there_is_an_error(target: str) -> None:
    with pytest.raises(TargetError, match="excludes nothing"):
        resolve(target, INVENTORY)


def test_a_plain_host_is_excluded_as_it_is_spelled() -> None:
    assert names("web01,root@web01,!root@web01") == ["web01"]


WRONG = {
    "": "empty",
    " \t ": "empty",
    "!web01": "starts with !",
    "!@web,web01": "starts with !",
    "&web01": "starts with &",
    ",web01": "no host at",
    "web01,": "no host behind",
    "web01,,web02": "no host at",
    "web01!!web02": "no host at",
    "web01!&web02": "no host at",
    "web01 web02": "holds ' '",
    "web[1-": "does not end",
    "web[1-3": "does not end",
    "web1-3]": "never began",
    "web[]": "bad range",
    "web[1-2-3]": "bad range",
    "web[a-c]": "bad range",
    "web[1,,2]": "bad range",
    "web[9-1]": "backwards",
    "web[1-9/0]": "step of 0",
    "web[01-100]": "padding",
    "web[[1-2]]": "does not end",
    "web[1-999999999]": "more than 100,000",
    "web[1-1000][1-1000]": "more than 100,000",
    "h[1-60000]:1,h[60001-100001]:1": "more than 100,000",
    "web[" + "9" * 400 + "]": "bad range",
    "-oProxyCommand=x": "looks like an option",
    "root@-oProxyCommand=x": "looks like an option",
    "-l@web01": "looks like an option",
    "web01;id": "holds ';'",
    "$(id)": "holds '\\$'",
    "`id`": "holds '`'",
    "web01|id": "holds",
    "web01\n": "holds",
    "\nweb01": "no host at",
    "web\x0001": "holds",
    "web\x1b]0;x\x0701": "never began",
    "web[1\x1b]": "bad range",
    "wéb01": "holds",
    "w" * 254: "longer than 253",
    "u" * 65 + "@web01": "user",
    "@web01@": "not a group",
    "user@": "no name",
    "@": "not a group",
    "a@b@web01": "holds '@'",
    "web01:": "not a port",
    "web01:0": "not a port",
    "web01:65536": "not a port",
    "web01:-1": "not a port",
    "web01:٢٢": "not a port",
    "[::1": "does not end",
    "[::g]:22": "not an IPv6",
    "[::1]22": "only :port",
    "[1.2.3.4:1]": "not an IPv6",
    "10.0.0.0/24": "holds '/'",
    "10.0.0.1%;id": "holds '%'",
    "10.0.0.1%eth0": "holds '%'",
    "fe80::1%;id": "not a port",
    "root@[fe80::1%$(id)]": "not an IPv6",
    "tag:dc": "tag:key=value",
    "tag:=ams": "tag:key=value",
    "tag:dc=": "tag:key=value",
    "root@web*": "wildcard",
    "web*[1-3]": "wildcard",
}


@pytest.mark.parametrize("target", WRONG, ids=lambda target: repr(target[:30]))
def test_a_wrong_expression_is_refused_in_one_clear_line(target: str) -> None:
    for check in (check_syntax, lambda text: resolve(text, INVENTORY)):
        with pytest.raises(TargetError, match=WRONG[target]) as caught:
            check(target)
        message = str(caught.value)
        assert caught.value.exit_code == 2
        assert message.isprintable()
        assert len(message) < 400


def test_the_syntax_alone_needs_no_inventory() -> None:
    check_syntax("web[01-20],@nobody,!tag:no=thing&we*")


def test_too_many_hosts_are_refused_before_they_are_made() -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(TargetError):
        check_syntax("a[0-99999999999999999999]," * 100 + "b")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024 * 1024
    assert time.process_time() - began < 1


@pytest.mark.parametrize("piece", ["a,", "!a", "[", "]", "[1]", "a[", "@a&", "**a", ":", " "])
def test_a_long_wrong_expression_is_refused_in_linear_time(piece: str) -> None:
    began = time.process_time()
    with pytest.raises(FleetflowError):
        resolve("x" + piece * 20_000 + "!", INVENTORY)
    assert time.process_time() - began < 2


def test_ten_thousand_names_resolve_and_fold_quickly() -> None:
    inventory = Inventory(hosts={f"web{number:05}": Host(name=f"web{number:05}") for number in range(10_000)}, places={})
    began = time.process_time()
    assert fold(names("web[00000-09999]!web00007", inventory)) == "web[00000-00006,00008-09999]"
    assert time.process_time() - began < 2


OPERANDS = {
    **{f"@{group}": {name for name, groups in FLEET.items() if group in groups} for group in ("web", "db", "lab", "prod")},
    "@all": set(FLEET),
    "web*": {name for name in FLEET if name.startswith("web")},
    "tag:dc=fra": {name for name, groups in FLEET.items() if "web" not in groups},
    "web[03-12/3]": {"web03", "web06", "web09", "web12"},
    "db[1,3]": {"db1", "db3"},
    **{name: {name} for name in FLEET},
}
MODEL = {",": set.union, "!": set.difference, ",!": set.difference, "&": set.intersection, ",&": set.intersection}


@settings(deadline=None)
@given(st.sampled_from(sorted(OPERANDS)), st.lists(st.tuples(st.sampled_from(sorted(MODEL)), st.sampled_from(sorted(OPERANDS)))))
def test_expressions_follow_the_laws_of_sets(first: str, rest: list[tuple[str, str]]) -> None:
    expected = OPERANDS[first]
    for operator, operand in rest:
        expected = MODEL[operator](expected, OPERANDS[operand])
    target = first + "".join(operator + operand for operator, operand in rest)
    if expected:
        found = names(target)
        assert set(found) == expected
        assert found == sorted(found, key=natural)
    else:
        with pytest.raises(NoHostsError):
            resolve(target, INVENTORY)


@settings(deadline=None)
@given(
    st.one_of(st.text(), st.text("web0123456789[]-,!&@*?:/.=tag \n", max_size=40), st.text("[]:1,-/"), st.text("f1:.%@$;[]", min_size=3))
)
def test_any_text_gives_harmless_hosts_or_one_of_our_errors(text: str) -> None:
    try:
        for host in resolve(text, INVENTORY):
            assert re.fullmatch(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:@%\[\]+-]*", host.name)
            assert not (host.address or "").startswith("-")
    except FleetflowError as error:
        assert str(error).isprintable()  # noqa: PT017 - any text may also be right


LABEL = st.text(string.ascii_lowercase + string.digits + "0123456789.-", min_size=1, max_size=12).map(lambda text: "h" + text)


SHAPED = st.from_regex(r"\A[a-c]{1,2}[0-9]{1,3}(-n[0-9]{1,2})?(:2[0-9])?\Z")


@settings(deadline=None)
@given(st.sets(st.one_of(LABEL, SHAPED, st.just("[::1]:22"), st.just("fe80::1"))))
def test_folded_names_expand_to_the_same_names(hosts: set[str]) -> None:
    label = fold(hosts)
    back = [name for part in split(label) for name in expand(part)] if label else []
    assert sorted(back) == sorted(hosts)


@settings(deadline=None)
@given(st.lists(st.text(max_size=10)))
def test_folding_takes_any_text(hosts: list[str]) -> None:
    assert isinstance(fold(hosts), str)


@pytest.mark.parametrize(
    ("hosts", "label"),
    [
        ([], ""),
        (["web3", "web9", "web7"], "web[3,7,9]"),
        (["web01", "web02", "web1", "localhost"], "localhost,web[1,01-02]"),
        (["web1.x", "web2.x", "web1.y"], "web[1-2].x,web1.y"),
        (["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2"], "10.0.[0-1].[1-2]"),
        (["deploy@web1:22", "deploy@web2:22"], "deploy@web[1-2]:22"),
    ],
)
def test_labels_are_short(hosts: list[str], label: str) -> None:
    assert fold(hosts) == label


def test_a_range_is_counted_before_it_is_made() -> None:
    assert len(expand("a[1-100000]")) == 100_000
    with pytest.raises(RangeError, match="more than"):
        expand("a[1-100001]")
    with pytest.raises(RangeError, match="more than"):
        expand("a[1-11]", 10)
