"""How policies are written, and what they come to on fleets of all sizes."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UsageError
from models.policy import USUAL, Amount, Order, Policy, read_policy, read_waves


@pytest.mark.parametrize(
    ("text", "hosts", "ends"),
    [
        ("", 7, [7]),
        ("1,10%,100%", 100, [1, 10, 100]),
        ("1,10%,100%", 5, [1, 5]),
        ("1, 10 %", 95, [1, 10, 95]),
        ("5,20", 12, [5, 12]),
        ("33.3%", 10, [4, 10]),
        ("10%", 1, [1]),
        ("50,10%,100%", 100, [50, 100]),
        ("100%", 3, [3]),
    ],
)
def test_waves_are_cumulative_and_the_last_one_is_all(text: str, hosts: int, ends: list[int]) -> None:
    assert read_policy(waves=text).wave_ends(hosts) == ends


_AMOUNTS = st.builds(Amount, st.integers(1, 200)) | st.builds(Amount, st.integers(1, 100), st.just(True))


@given(amounts=st.lists(_AMOUNTS, max_size=6), hosts=st.integers(1, 300))
def test_no_wave_is_empty_and_together_they_are_all_hosts(amounts: list[Amount], hosts: int) -> None:
    try:
        policy = Policy(waves=tuple(amounts))
    except UsageError:
        return
    ends = policy.wave_ends(hosts)
    assert ends[-1] == hosts
    assert all(earlier < later for earlier, later in pairwise([0, *ends]))


@pytest.mark.parametrize(("text", "allowed"), [("0", 0), ("5", 5), ("5%", 5), ("0%", 0), ("1.5%", 1), ("500", 100), ("", None)])
def test_a_limit_is_of_the_whole_task_and_rounded_down(text: str, allowed: int | None) -> None:
    assert read_policy(max_failures=text).allowed(100) == allowed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"waves": "one"}, ["waves 'one'", "write 1,10%,100%"]),
        ({"waves": "1,,5"}, ["write 1,10%,100%"]),
        ({"waves": "5,2"}, ["waves '5,2'", "grow"]),
        ({"waves": "10%,10%"}, ["grow"]),
        ({"waves": "0,5"}, ["reaches no host"]),
        ({"waves": "10%,200%"}, ["100% is all"]),
        ({"waves": ",".join(str(number) for number in range(1, 102))}, ["at most 100"]),
        ({"max_failures": "-1"}, ["max_failures '-1'", "5%"]),
        ({"max_failures": "few"}, ["write 5 (hosts) or 5%"]),
        ({"wave_pause": -1.0}, ["wave_pause -1"]),
        ({"wave_pause": float("nan")}, ["wave_pause"]),
        ({"retries": -1}, ["retries -1"]),
        ({"retries": 1000}, ["at most 100"]),
        ({"retry_delay": 0}, ["retry_delay 0"]),
        ({"deadline": 0}, ["deadline 0"]),
        ({"forks": 0}, ["forks 0"]),
        ({"pick": 0}, ["pick 0"]),
    ],
)
def test_a_bad_rule_says_how_to_write_it(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read_policy(**given)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_survives_its_storage_and_only_what_is_unusual_is_kept() -> None:
    policy = read_policy(
        waves="1,10%", wave_pause=2, max_failures="5%", ignore_unreachable=True, retries=2, retry_delay=1.5, deadline=60, forks=7,
        order="shuffled", pick=9,
    )  # fmt: skip
    assert Policy.from_dict(policy.as_dict()) == policy
    assert USUAL.as_dict() == {}
    assert Policy.from_dict({}) == USUAL
    assert read_waves(str(policy.as_dict()["waves"])) == policy.waves


def test_delays_double_and_no_two_hosts_come_back_together() -> None:
    policy = Policy(retries=3, retry_delay=8)
    for _ in range(20):
        delays = list(policy.delays())
        assert all(0.75 * 8 * 2**n <= delay <= 1.25 * 8 * 2**n for n, delay in enumerate(delays))
    assert len({next(policy.delays()) for _ in range(10)}) > 1
    assert max(Policy(retries=100, retry_delay=60).delays()) <= 1.25 * 3600


def test_a_sample_keeps_the_order_and_shuffling_keeps_the_hosts() -> None:
    hosts = [f"h{number}" for number in range(200)]
    sample = Policy(pick=20).choose(hosts)
    assert len(sample) == 20
    assert list(sample) == sorted(sample, key=hosts.index)
    assert Policy(pick=1000).choose(hosts) == tuple(hosts)
    shuffled = Policy(order=Order.SHUFFLED).choose(hosts)
    assert sorted(shuffled) == sorted(hosts)
    assert shuffled != tuple(hosts)
    assert {Policy(pick=20).choose(hosts) for _ in range(5)} != {sample}
