"""Credentials from Prefect's blocks let the worker in on hosts, and are found nowhere else."""

import json
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.logins import understood
from models.errors import CredentialsError
from models.store import Store
from tests.servers.prefect import PrefectServer
from tests.servers.sshd import Sshd, make_key
from tests.servers.worker import Worker
from tests.until import until

SLUG = "fleetflow-ssh-credentials"
FIELDS = ["user", "key", "passphrase", "password", "jump"]


@pytest.fixture(scope="module")
def worker(careful: Worker) -> Worker:
    return careful  # which asks about nothing that is done here, and has been started already


@pytest.fixture(scope="module")
def canary() -> str:
    return f"canary-{secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def key(sshd: Sshd, canary: str) -> Path:
    """An encrypted key that the sshd takes; its passphrase is the canary."""
    path = make_key(sshd.folder / "id_of_the_block", passphrase=canary)
    with (sshd.folder / "authorized_keys").open("a") as file:
        file.write(path.with_name(f"{path.name}.pub").read_text())
    return path


def _schema(server: PrefectServer, slug: str = SLUG) -> dict[str, Any]:
    (block_type,) = server.post("/block_types/filter", block_types={"slug": {"any_": [slug]}})
    schema: dict[str, Any] = server.post("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [block_type["id"]]}})[0]
    return schema


def _make(server: PrefectServer, slug: str = SLUG, **data: object) -> str:
    """Make a block, as the UI does; returns its name."""
    schema = _schema(server, slug)
    name = f"fleet-{uuid.uuid4().hex[:8]}"
    body = {"name": name, "data": data, "block_type_id": schema["block_type_id"], "block_schema_id": schema["id"]}
    server.post("/block_documents/", **body)
    return name


@pytest.fixture(scope="module")
def block(worker: Worker, key: Path, canary: str) -> str:
    return _make(worker.server, user="root", key=key.read_text(), passphrase=canary, password=f"{canary}-password")


@pytest.fixture(scope="module", autouse=True)
def fleet(worker: Worker, sshd: Sshd, block: str) -> Iterator[None]:
    """An inventory: `named` names the block, `typo` one that is not there; without either nobody is let in."""
    reach = f"port: {sshd.port}, host_key: 'off', user: nobody-of-this-name"
    (worker.home / "hosts.yaml").write_text(
        f"hosts:\n  bare: {{address: 127.9.4.1, {reach}}}\n"
        f"  named: {{address: 127.9.4.2, port: {sshd.port}, host_key: 'off', credentials: {block}}}\n"
        f"  gate: {{address: 127.9.4.9, port: {sshd.port}, user: root}}\n"
        f"  typo: {{address: 127.9.4.3, {reach}, credentials: no-such-block}}\n"
    )
    yield
    (worker.home / "hosts.yaml").unlink()


def _rows(worker: Worker, run: str) -> dict[str, dict[str, Any]]:
    store = Store.open(worker.database)
    try:
        task = store.task_of_flow_run(uuid.UUID(run))
        assert task is not None
        return {execution.host: store.row(execution) for execution in store.executions(task.id)}
    finally:
        store.close()


def _update(server: PrefectServer, name: str, **data: object) -> None:
    document = server.get(f"/block_types/slug/{SLUG}/block_documents/name/{name}")
    body = {"data": data, "merge_existing_data": False, "block_schema_id": document["block_schema_id"]}
    until(lambda: server.api.patch(f"/block_documents/{document['id']}", json=body).is_success)


def test_the_form_of_a_block_describes_every_field_and_hides_what_is_secret(worker: Worker) -> None:
    fields = _schema(worker.server)["fields"]
    assert list(fields["properties"]) == FIELDS
    assert all(field["description"] and field["title"] for field in fields["properties"].values())
    assert fields["secret_fields"] == ["key", "passphrase", "password"]
    assert not fields.get("required")


def test_hosts_and_tasks_name_credentials_and_their_values_are_found_nowhere(
    worker: Worker, block: str, key: Path, canary: str, sshd: Sshd, tmp_path: Path
) -> None:
    """With the key of the block in the database of Prefect, encrypted, and nowhere else at all."""
    run = worker.begin(command="id -un; sleep 1", target="named,typo")
    argument_lists = b"".join(file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists())
    state = worker.end_of(run)["state"]
    rows = _rows(worker, run)
    assert (rows["named"]["state"], rows["named"]["stdout"]) == ("succeeded", "root\n")
    missing = "credentials 'no-such-block': there is no block of this name; make one of the type fleetflow SSH credentials in Prefect's UI"
    assert (rows["typo"]["state"], rows["typo"]["error"]) == ("unreachable", missing)
    task = worker.begin(command="id -un", target="bare,typo", credentials=block)
    assert worker.end_of(task)["state_type"] == "COMPLETED", _rows(worker, task)
    assert {row["stdout"] for row in _rows(worker, task).values()} == {"root\n"}
    (tmp_path / "told").write_text(f"{canary}-password {canary}\n")
    told = worker.begin(command=f"cat {tmp_path / 'told'}", target="bare", credentials=block)
    worker.end_of(told)
    assert _rows(worker, told)["bare"]["stdout"] == "*** ***\n"
    text = key.read_text().splitlines()[2]
    logs = worker.server.post("/logs/filter", logs={"flow_run_id": {"any_": [run, task]}})
    artifacts = worker.server.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run, task]}})
    assert logs
    shown = json.dumps([logs, artifacts, state, worker.flow_run(run), worker.flow_run(task)]).encode() + argument_lists
    kept = [file for folder in (worker.home, worker.server.home) for file in folder.rglob("*") if file.is_file()]
    assert any(file.name == "prefect.db" for file in kept)
    assert any(file.name == "fleetflow.db" for file in kept)
    for secret in (canary.encode(), text.encode()):
        assert secret not in shown
        assert [file for file in kept if secret in file.read_bytes()] == []


def test_a_task_that_names_no_block_of_ours_is_refused_before_it_is_there(worker: Worker) -> None:
    another = _make(worker.server, "secret", value="x")
    for name, reason in (
        ("no-such-block", "credentials 'no-such-block': there is no block of this name"),
        (another, f"credentials '{another}': the block of this name is of the type Secret"),
    ):
        run = worker.begin(command="true", target="bare", credentials=name)
        state = worker.end_of(run)["state"]
        assert (state["name"], reason in state["message"]) == ("Refused", True), state["message"]
        store = Store.open(worker.database)
        assert store.task_of_flow_run(uuid.UUID(run)) is None
        store.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"user": "root"}, "it holds neither a key nor a password"),
        ({"user": "root", "key": "", "password": None}, "it holds neither a key nor a password"),
        ({"user": "canary of a key", "password": "x"}, "its user is not a user name"),
        ({"password": "x", "jump": "canary b"}, "its jump host is not [user@]host[:port]"),
        ({"password": {"canary": 1}}, "its password cannot be read"),
    ],
)
def test_a_block_that_cannot_be_used_is_one_line_without_its_values(data: dict[str, Any], reason: str) -> None:
    found = understood("fleet", data)
    assert isinstance(found, CredentialsError)
    assert str(found).startswith(f"credentials 'fleet': {reason}")
    assert "canary" not in str(found)
    assert "\n" not in str(found)


def test_a_changed_block_counts_from_the_next_task_on(worker: Worker, key: Path, canary: str, tmp_path: Path) -> None:
    name = _make(worker.server, user="root", key=key.read_text(), passphrase=canary)
    assert worker.end_of(worker.begin(command="true", target="bare", credentials=name))["state_type"] == "COMPLETED"
    _update(worker.server, name, user="root", key=make_key(tmp_path / "another").read_text())
    run = worker.begin(command="true", target="bare", credentials=name)
    assert worker.end_of(run)["state_type"] == "FAILED"
    assert "accepts none of our credentials" in _rows(worker, run)["bare"]["error"]


def test_a_jump_host_of_a_block_is_found_in_the_inventory(worker: Worker, key: Path, canary: str, sshd: Sshd) -> None:
    name = _make(worker.server, user="root", key=key.read_text(), passphrase=canary, jump="gate")
    worker.end_of(run := worker.begin(command="true", target="bare", credentials=name))
    assert f"[127.9.4.9]:{sshd.port} is not known" in _rows(worker, run)["bare"]["error"], "whose host key is not known"
