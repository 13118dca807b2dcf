"""What comes back from hosts that work."""

import asyncio

from tests.executors.ssh.running import Recorded, runner
from tests.servers.sshd import Sshd


async def test_a_hundred_hosts_all_succeed(sshd: Sshd) -> None:
    async with runner(sshd.settings()) as run:
        printed = await asyncio.gather(*(run.read(host, "echo hi") for host in sshd.fleet(100)))
    assert printed == [b"hi\n"] * 100


async def test_a_nonzero_exit_is_a_result_and_keeps_both_streams(sshd: Sshd) -> None:
    sink = Recorded()
    async with runner(sshd.settings()) as run:
        result = await run(sshd.host(), "echo out; echo err >&2; exit 3", sink)
    assert (result.exit_code, sink.stdout, sink.stderr) == (3, b"out\n", b"err\n")


async def test_a_signal_is_128_and_its_number(sshd: Sshd) -> None:
    async with runner(sshd.settings()) as run:
        assert (await run(sshd.host(), "kill -9 $$")).exit_code == 137


async def test_the_host_starts_nothing_when_the_start_cannot_be_recorded(sshd: Sshd, tmp_path) -> None:
    class Refusing(Recorded):
        async def starting(self) -> None:
            raise RuntimeError("the database is gone")

    async with runner(sshd.settings()) as run:
        try:
            await run(sshd.host(), f"touch {tmp_path}/ran", Refusing())
        except RuntimeError as error:
            assert "database" in str(error)  # noqa: PT017 - the outcome of the run is what is asserted below
        await asyncio.sleep(0.3)
        assert not (tmp_path / "ran").exists()


async def test_a_secret_is_revealed_on_the_host_alone(sshd: Sshd, monkeypatch) -> None:
    monkeypatch.setenv("FLEETFLOW_SECRET_TOKEN", "s3cret")
    async with runner(sshd.settings()) as run:
        assert await run.read(sshd.host(), 'echo "$T"', env={"T": "secret:TOKEN"}) == b"s3cret\n"
