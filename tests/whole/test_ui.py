"""Prefect's UI, as an operator uses it: in a browser. `make screenshots` renews the pictures in the docs from here."""

import os
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
from playwright.sync_api import Page

from flows.run_command import run_command
from models.states import ExecutionState, TaskState
from tests.browser.chromium import run_chromium
from tests.browser.prefect_ui import PrefectUI
from tests.stacks import Stack, marked, new_word
from tests.until import until

HOSTS = "hosts:\n" + "".join(f"  web0{number}: {{address: 127.9.7.{number}, groups: [web]}}\n" for number in (1, 2, 3))
GONE = "  web04: {address: 127.9.7.4, port: 1, groups: [web]}\n"  # nobody listens there
GIVEN = signature(run_command.fn).parameters
PARAMETERS = {name: given for name, given in GIVEN.items() if get_origin(given.annotation) is not Annotated}  # the others are hidden
CHOICES = {name: list(get_args(given.annotation)) for name, given in PARAMETERS.items() if get_origin(given.annotation) is Literal}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with run_chromium() as page:
        yield page


@pytest.fixture(scope="module")
def asked(page: Page) -> list[str]:
    """The addresses that the browser has had an answer from."""
    answers: list[str] = []
    page.on("response", lambda response: answers.append(response.url))
    return answers


@pytest.fixture(scope="module")
def ui(page: Page, asked: list[str], stack: Stack) -> Iterator[PrefectUI]:
    (stack.home / "hosts.yaml").write_text(HOSTS + GONE)
    ui = PrefectUI(page, stack.status["ui_url"])
    ui.log_in((stack.home / "prefect.auth").read_text().strip())
    yield ui
    (stack.home / "hosts.yaml").unlink()


@pytest.fixture
def shoot(page: Page) -> Callable[[str], None]:
    """Takes a picture for the docs, where SCREENSHOTS names the folder for them."""

    def shoot(name: str) -> None:
        if folder := os.environ.get("SCREENSHOTS"):
            page.wait_for_load_state("networkidle")
            page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")

    return shoot


def _results(stack: Stack, run: object) -> str:
    """The id of a run's results; the page may say Completed of its first task runs sooner than there are any."""
    wanted = {"flow_run_id": {"any_": [str(run)]}, "key": {"any_": ["fleetflow-results"]}}
    (artifact,) = until(lambda: stack.api("POST", "/artifacts/filter", {"artifacts": wanted}), 60, "the results", every=0.5)
    return str(artifact["id"])


def test_the_form_explains_each_field_and_a_run_shows_its_results(ui: PrefectUI, stack: Stack, shoot: Callable[[str], None]) -> None:
    ui.open_deployment("run-command", "fleet")
    form = ui.custom_run()
    described = form.descriptions()
    assert list(described) == list(PARAMETERS), "all that people may say, in this order, and nothing else"
    assert [name for name, text in described.items() if len(text) < 20] == []
    assert {name: form.choices(name) for name in CHOICES} == CHOICES
    form.fill("command", "uname -sr")
    form.fill("target", "web[01-03]")
    shoot("form")
    run = ui.submit()
    ui.wait_for("Completed")
    ui.open_artifact("fleetflow-results", _results(stack, run))
    assert [row[:3] for row in ui.table()] == [[f"web0{number}", "succeeded", "0"] for number in (1, 2, 3)]
    assert stack.ended(run)["state"]["message"] == "3 hosts succeeded"
    task = stack.newest().id
    assert ui.link(f"Task {task}") == f"{stack.status['pages_url']}/{task}"


def test_hosts_that_went_wrong_come_first(ui: PrefectUI, stack: Stack, shoot: Callable[[str], None]) -> None:
    run = stack.create_run(command="uptime", target="@web")
    ui.open_run(run)
    ui.wait_for("Failed")
    ui.open_artifact("fleetflow-results", _results(stack, run))
    assert [row[:2] for row in ui.table()] == [["web04", "unreachable"], *([f"web0{number}", "succeeded"] for number in (1, 2, 3))]
    shoot("results")
    ui.open_run(run)
    ui.wait_for("web04 unreachable: connection refused by 127.9.7.4:1")
    shoot("run")


def test_a_canceled_run_leaves_no_process(ui: PrefectUI, stack: Stack) -> None:
    word = new_word()
    ui.open_deployment("run-command", "fleet")
    form = ui.custom_run()
    form.fill("command", "sleep 300")
    form.fill("target", "web[01-03]")
    form.choose("on_disconnect", "end")
    form.add("env", f"WORD={word}")
    run = ui.submit()
    until(lambda: len(marked(word)) >= 3, 20, "the commands to run")
    ui.cancel()
    ui.wait_for("Cancelled")
    assert stack.ended(run)["state"]["type"] == "CANCELLED"
    assert marked(word) == []
    assert {execution.state for execution in stack.executions(stack.newest().id).values()} == {ExecutionState.CANCELED}


def test_a_paused_run_is_approved_by_its_form(ui: PrefectUI, stack: Stack, shoot: Callable[[str], None]) -> None:
    command = "ls -d /approve-me/*_old_*; true"  # as Markdown, some of it would be left out
    run = stack.create_run(command=command, target="web[01-03]")
    ui.open_run(run)
    ui.wait_for("Paused")
    form = ui.resume()
    form.shows(f'Run "{command}" on 3 hosts?')
    described = form.descriptions()
    assert list(described) == ["approve", "who", "why"]
    assert all(described.values())
    assert form.choices("approve") == ["yes", "no"]
    form.choose("approve", "yes")
    form.fill("who", "Ann")
    form.fill("why", "change 1234")
    shoot("approval")
    ui.send()
    ui.wait_for("Completed")
    stack.ended(run)
    task = stack.newest()
    assert task.state is TaskState.SUCCEEDED
    assert "approved by Ann" in stack("task", "show", str(task.id)).stdout


def test_the_browser_was_answered_by_the_stack_alone(ui: PrefectUI, asked: list[str]) -> None:
    assert len(asked) > 50
    assert [address for address in asked if not address.startswith((ui.url, "data:", "blob:"))] == []
