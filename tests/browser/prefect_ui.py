"""Prefect's UI as an operator sees it.

What it calls its buttons, and where it puts its words, stands here and nowhere else: a new Prefect is met in this file.
"""

import re
from contextlib import suppress
from dataclasses import dataclass

from playwright.sync_api import Error, Locator, Page, expect

_OPTIONAL = " (Optional)"  # what the label of a field ends with that need not be filled in
_LABELS = "div.group label"  # of the fields that a flow asks for; Prefect's own stand in no such group
_TRIES = 5
_PATIENCE = 30_000  # milliseconds; the page of a run looks for news every five seconds


@dataclass(frozen=True)
class Form:
    """A form that Prefect makes of a flow's parameters, or of what a paused run asks for."""

    part: Locator  # of the page

    def descriptions(self) -> dict[str, str]:
        """What stands below each field's name, from top to bottom."""
        labels = self.part.locator(_LABELS).all()
        return {
            label.inner_text().removesuffix(_OPTIONAL): " ".join(label.locator("xpath=following-sibling::p").all_inner_texts())
            for label in labels
        }

    def shows(self, text: str) -> None:
        """Wait until a text can be read in the form."""
        expect(self.part.get_by_text(text)).to_be_visible(timeout=_PATIENCE)

    def fill(self, field: str, text: str) -> None:
        self.part.get_by_label(re.compile(rf"^{field}( \(Optional\))?$")).fill(text)

    def add(self, field: str, text: str) -> None:
        """Append to a field that holds a list."""
        whole = self.part.locator("div.group").filter(has=self.part.page.get_by_text(field + _OPTIONAL, exact=True))
        whole.get_by_role("button", name="Add item").click()
        whole.get_by_role("textbox").last.fill(text)

    def choices(self, field: str) -> list[str]:
        """What a field offers to choose from."""
        self._open(field)
        options = self.part.page.get_by_role("option")
        expect(options.first).to_be_visible()
        found = options.all_inner_texts()
        self.part.page.keyboard.press("Escape")
        expect(options).to_have_count(0)
        return found

    def choose(self, field: str, value: str) -> None:
        self._open(field)
        self.part.page.get_by_role("option", name=value, exact=True).click()

    def _open(self, field: str) -> None:
        self.part.get_by_label(f"Select {field}", exact=True).click()


@dataclass(frozen=True)
class PrefectUI:
    """The UI in a browser, and what people do in it."""

    page: Page
    url: str

    def log_in(self, login: str) -> None:
        self.page.goto(self.url)
        self.page.get_by_placeholder("admin:pass").fill(login)
        self.page.get_by_role("button", name="Login").click()
        expect(self.page).to_have_url(re.compile("/dashboard"))

    def open_deployment(self, flow: str, name: str) -> None:
        """Find a deployment in the list, as the entry `name` below its flow."""
        self.page.get_by_role("link", name="Deployments").click()
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("link", name=flow, exact=True))
        row.get_by_role("link", name=name, exact=True).click()

    def custom_run(self) -> Form:
        """Choose Run, Custom run: the form of the deployment that is open."""
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        return _form(self.page.locator("form"))

    def submit(self) -> str:
        """Submit the form that is open, and go to the run that it makes; its id."""
        self.page.get_by_role("button", name="Submit").click()
        self.page.get_by_role("link", name="View run").click()
        expect(self.page).to_have_url(re.compile("/flow-run/"))
        return self._run()

    def open_run(self, flow_run_id: object) -> None:
        self.page.goto(f"{self.url}/v2/runs/flow-run/{flow_run_id}")

    def wait_for(self, state: str) -> None:
        """Wait until the run that is open shows a state."""
        expect(self.page.get_by_text(state, exact=True).first).to_be_visible(timeout=_PATIENCE)

    def open_artifact(self, key: str, artifact_id: str) -> None:
        """Open an artifact of the run that is open: its key leads to those of all runs, which only their ids tell apart."""
        self.page.reload()  # the page may have asked for the artifacts before there was this one, and asks no more
        self.page.get_by_role("tab", name="Artifacts").click()
        self.page.get_by_role("link").filter(has_text=key).click()
        self.page.locator(f"a[href*='/artifacts/artifact/{artifact_id}']").first.click()

    def table(self) -> list[list[str]]:
        """The rows of the table artifact that is open, without its head."""
        rows = self.page.get_by_role("row")
        expect(rows.nth(1)).to_be_visible()
        return [row.get_by_role("cell").all_inner_texts() for row in rows.all()[1:]]

    def link(self, name: str) -> str:
        """Where a link on the page that is open leads."""
        found = self.page.get_by_role("link", name=name, exact=True).first
        expect(found).to_be_visible()
        return found.get_attribute("href") or ""

    def cancel(self) -> None:
        """Cancel the run that is open, and say so twice."""
        self._choose_action("Cancel")
        self.page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()

    def resume(self) -> Form:
        """Choose Resume on the run that is open: the form that it waits for."""
        self._choose_action("Resume")
        return _form(self.page.get_by_role("dialog"))

    def send(self) -> None:
        """Send the form of a paused run."""
        self.page.get_by_role("dialog").get_by_role("button", name="Resume").click()
        expect(self.page.get_by_role("dialog")).to_be_hidden()

    def _run(self) -> str:
        return self.page.url.partition("?")[0].rpartition("/")[2]

    def _choose_action(self, name: str) -> None:
        item = self.page.get_by_role("menuitem", name=name, exact=True)
        for _ in range(_TRIES):  # the menu offers what fits the state that the page last heard of
            self.page.get_by_role("button", name="Open menu").click()
            with suppress(Error):
                return item.click(timeout=_PATIENCE / _TRIES)
            self.page.reload()
        return item.click()


def _form(part: Locator) -> Form:
    """A form, once its fields are there."""
    expect(part.locator(_LABELS).first).to_be_visible(timeout=_PATIENCE)
    return Form(part)
