"""What the durable wrapper keeps on the host: where it may, how much, and what happens when it cannot."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from executors.durable import ACK, CANCEL, Verb
from executors.lifeline import LOCAL_ARGV
from models.values import Stream
from tests.executors.spooled import Spooled, refusal
from tests.executors.wrapped import Wrapped
from tests.programs import need_root
from tests.until import until

LIMIT = 200_000
FIRST, ROUND, ROUNDS = 1_000_000, 20_000, 30  # numbers of eight bytes a line, in rounds of 160 kB
FLOOD = f"k=0; while [ $k -lt {ROUNDS} ]; do seq $(({FIRST}+k*{ROUND})) $(({FIRST}+k*{ROUND}+{ROUND - 1})); k=$((k+1)); sleep 0.1; done"
PRINTED = b"".join(b"%d\n" % number for number in range(FIRST, FIRST + ROUNDS * ROUND))


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    need_root("only root may mount a file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        for size in (4096, 512, 1):
            try:
                while ballast.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def _is_refused(box: Spooled, tmp_path: Path, **options: object) -> None:
    run = box.wrapped(f"touch {tmp_path}/ran", **options).prepare()  # type: ignore[arg-type]  # as they are given
    assert "~/.fleetflow/spool on the host cannot be written" in refusal(run.session)
    assert run.process.wait(10) == 1
    assert not (tmp_path / "ran").exists()
    assert not box.left()


@pytest.mark.parametrize("name", [".fleetflow", ".fleetflow/spool"])
def test_a_spool_behind_a_symbolic_link_is_refused(box: Spooled, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (box.home / name).parent.mkdir(exist_ok=True)
    (box.home / name).symlink_to(tmp_path / "elsewhere")
    _is_refused(box, tmp_path)


@pytest.mark.parametrize("name", [".fleetflow", ".fleetflow/spool"])
def test_a_spool_of_another_user_is_refused(box: Spooled, tmp_path: Path, name: str) -> None:
    need_root("only root may give a folder away")
    box.spool.mkdir(parents=True)
    os.chown(box.home / name, 65534, 65534)
    _is_refused(box, tmp_path)


def test_a_spool_that_is_no_folder_is_refused(box: Spooled, tmp_path: Path) -> None:
    (box.home / ".fleetflow").touch()
    _is_refused(box, tmp_path)


def test_what_is_refused_while_it_is_prepared_leaves_nothing(box: Spooled) -> None:
    run = box.wrapped("true", interpreter=("/nonexistent",)).prepare()
    assert run.session.refusal == "its interpreter /nonexistent is not there, or is no program"
    run.process.wait(10)
    assert box.files(run.attempt) == set()


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_who_has_no_home_has_a_spool_all_the_same(box: Spooled, home: str) -> None:
    run = box.start("echo hi", environment={"HOME": home})
    run.read_until(lambda: run.session.verdict)
    assert (run.session.verdict, run.output[Stream.STDOUT]) == ("exit 0", b"hi\n")
    spool = Path(f"/var/tmp/.fleetflow-{os.geteuid()}/spool")
    assert spool.stat().st_mode & 0o077 == 0
    run.send(ACK)
    run.process.wait(10)
    (spool.parent / "acked" / str(run.attempt.id)).unlink()


@pytest.mark.parametrize("options", ["ro", "size=64k", "size=64k,nr_inodes=5"])
def test_a_file_system_that_takes_nothing_is_refused(box: Spooled, tmp_path: Path, options: str) -> None:
    with _mounted(box.home, options):
        if "size" in options:
            box.spool.mkdir(parents=True)
            _fill(box.home)
        _is_refused(box, tmp_path)


def test_the_spool_is_nobody_elses(box: Spooled) -> None:
    run = box.start("umask; echo out", argv=[box.sh, "-c", f"umask 022; exec {box.sh} -c '{LOCAL_ARGV[2]}'"])
    run.read_until(lambda: run.session.verdict)
    assert run.output[Stream.STDOUT] == b"0022\nout\n"
    assert [path.stat().st_mode & 0o777 for path in (box.spool, box.spool.parent)] == [0o700, 0o700]


def test_a_full_disk_in_mid_run_does_not_end_what_is_attached(box: Spooled, tmp_path: Path) -> None:
    with _mounted(box.home, "size=256k"):
        runs = [
            box.start(f"echo up; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo lost; exit 9", linger=1, beat_timeout=1),
            box.start("trap '' TERM; echo up; sleep 300", linger=1, beat_timeout=1),
        ]
        for run in runs:
            run.read_until(lambda run=run: run.output[Stream.STDOUT])
        _fill(box.home)
        until_then = time.monotonic() + 3.5
        while time.monotonic() < until_then:
            for run in runs:
                _beat(run)
        (tmp_path / "go").touch()
        runs[1].send(CANCEL)
        for run in runs:
            run.read_until(lambda run=run: run.session.verdict, 5)
        assert [run.session.verdict for run in runs] == ["exit 9", "ended canceled"]
        assert [box.verdict(Verb.STATE, run.attempt) for run in runs] == ["exit 9", "ended canceled"]
        for run in runs:
            run.send(ACK)
        box.nothing_left()


def _beat(run: Wrapped) -> None:
    soon = time.monotonic() + 0.1
    run.read_until(lambda: time.monotonic() > soon, beat=0.1)


def _place(run: Wrapped) -> bytes:
    """Both streams' worth of stdout, each piece where it belongs: what was left out is zeros."""
    data, whole, begin = run.output[Stream.STDOUT], bytearray(), 0
    for place, size in run.gaps[Stream.STDOUT]:
        whole += data[begin:place] + bytes(size)
        begin = place
    return bytes(whole + data[begin:])


def _agrees(told: bytes, printed: bytes = PRINTED) -> bool:
    """Whether all that was told stands where the command printed it, and the gaps are counted exactly."""
    return len(told) == len(printed) and all(ours in (0, theirs) for ours, theirs in zip(told, printed, strict=True))


def _kept(box: Spooled, run: Wrapped) -> int:
    return (box.spool / f"{run.attempt.id}.out").stat().st_blocks * 512


def test_a_flood_loses_its_middle_and_nothing_else(box: Spooled) -> None:
    if box.shell == "busybox":
        pytest.skip("its fallocate makes no holes")
    quick, slow, alone = (box.start(FLOOD, limit=LIMIT, linger=linger) for linger in (30, 30, None))
    alone.read_until(lambda: alone.output[Stream.STDOUT])
    alone.vanish()
    quick.read_until(lambda: quick.session.verdict)
    slow.read_until(lambda: slow.session.verdict)  # it has read nothing so far
    assert all(run.session.verdict == "exit 0" and _agrees(_place(run)) for run in (quick, slow))
    assert slow.gaps[Stream.STDOUT]
    until(lambda: box.verdict(Verb.STATE, alone.attempt) == "exit 0")
    for run in (quick, slow, alone):
        assert _kept(box, run) < len(PRINTED) / 2
        again = box.ask(Verb.ATTACH, run.attempt)
        told = _place(again)
        assert _agrees(told)
        assert told.startswith(PRINTED[: LIMIT // 2])
        assert told.endswith(PRINTED[-LIMIT // 2 :])
        again.send(ACK)
    for run in (quick, slow):
        run.hang_up()
    box.nothing_left()


def test_a_session_may_come_back_anywhere_in_a_flood(box: Spooled) -> None:
    if box.shell == "busybox":
        pytest.skip("its fallocate makes no holes")
    run = box.start(FLOOD, limit=LIMIT, linger=None)
    run.read_until(lambda: len(run.output[Stream.STDOUT]) > LIMIT / 4)
    told, offset = _place(run), run.session.offsets[Stream.STDOUT]
    run.vanish()
    while run.session.verdict is None:
        run = box.wrapped("", Verb.ATTACH, run.attempt, offsets={Stream.STDOUT: offset}, limit=LIMIT).start()
        run.read_until(lambda run=run: run.session.verdict or len(run.output[Stream.STDOUT]) > 3 * LIMIT)
        told, offset = told + _place(run), run.session.offsets[Stream.STDOUT]
        run.vanish()
    assert _agrees(told)
    assert told.startswith(PRINTED[: LIMIT // 2])
    assert told.endswith(PRINTED[-LIMIT // 2 :])


def test_a_flood_is_ended_where_no_hole_can_be_made(box: Spooled) -> None:
    if box.shell != "busybox":
        pytest.skip("this one has fallocate")
    run = box.start(FLOOD, limit=LIMIT)
    run.read_until(lambda: run.session.verdict)
    assert run.session.verdict == "ended full"
    told = _place(run)
    assert _agrees(told, PRINTED[: len(told)])
    run.send(ACK)
    box.nothing_left()


@pytest.mark.parametrize(("name", "mode"), [(".fleetflow", 0o770), (".fleetflow/spool", 0o702), (".fleetflow/acked", 0o702)])
def test_a_spool_into_which_others_may_write_is_refused_at_the_first_run(box: Spooled, tmp_path: Path, name: str, mode: int) -> None:
    for folder in (box.spool, box.tombs):
        folder.mkdir(parents=True, mode=0o700)
    (box.home / name).chmod(mode)
    _is_refused(box, tmp_path, tidies=True)


def test_the_claim_of_somebody_who_has_not_written_it_yet_is_left_alone(box: Spooled, tmp_path: Path) -> None:
    run = box.wrapped(f"touch {tmp_path}/ran")
    box.spool.mkdir(parents=True, mode=0o700)
    claim = box.spool / f"{run.attempt.id}.claim"
    claim.touch()
    run.prepare()
    assert refusal(run.session) == "this attempt was started before"
    assert claim.exists()
