"""Every tab and state of the page: how to bring it about, for the tests and for the contact sheet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page, Route, expect

HISTORY = "history=7381:5,3345:4,7939:5,11592"  # popular ones, which the training part surely has
CARDS = "#list .card[data-id]"


def _nothing(page: Page) -> None:
    """The address alone shows it."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A state of the page.

    Attributes:
        address: What follows the service's address.
        before: Done before the page is opened, for example to make requests fail.
        act: Done when the page is there.
        shows: What is visible then.
        fails: Whether requests fail on purpose, which the browser's console says.
    """

    address: str = ""
    before: Callable[[Page], None] = _nothing
    act: Callable[[Page], None] = _nothing
    shows: str = CARDS
    fails: bool = False


def _refuse(page: Page) -> None:
    problem = {"title": "Overloaded", "status": 503, "detail": "Too many requests wait.", "request_id": "7d20c3"}
    answer = {"status": 503, "content_type": "application/problem+json", "headers": {"Retry-After": "2"}}
    page.route("**/v1/recommend", lambda route: route.fulfill(**answer, body=json.dumps(problem)))


def _cut(page: Page) -> None:
    page.context.set_offline(True)
    page.locator("#slider-variety").fill("60")
    expect(page.locator("#banner")).to_be_visible()


def _session(scopes: list[str]) -> Callable[[Page], None]:
    body = json.dumps({"auth_required": True, "scopes": scopes, "request_id": "7d20c3"})
    return lambda page: page.route(
        "**/v1/session", lambda route: route.fulfill(content_type="application/json", body=body)
    )


def _hold(page: Page) -> None:
    page.route("**/v1/recommend", lambda route: None)


def _hold_reasons(page: Page) -> None:
    def held(route: Route) -> None:
        if not route.request.post_data_json.get("explain"):
            route.continue_()

    page.route("**/v1/recommend", held)


def _one_model(page: Page) -> None:
    def answer(route: Route) -> None:
        found = route.fetch().json()
        route.fulfill(json={**found, "names": found["names"][:1], "models": found["models"][:1]})

    page.route("**/v1/models", answer)


def _open_first(page: Page) -> None:
    page.locator(f"{CARDS} .card-title button").first.click()
    expect(page.locator("#sheet-similar .row-item").first).to_be_visible()


def _ask_what_removes(page: Page) -> None:
    _open_first(page)
    page.get_by_role("button", name="What would remove this").click()
    expect(page.get_by_role("heading", name="What would remove this")).to_be_visible()


def _search(page: Page) -> None:
    page.locator("#search").fill("of")
    expect(page.locator(".result bdi").first).to_be_visible()


def _dismiss(page: Page) -> None:
    page.locator(f"{CARDS} [data-act=dismiss]").first.click()


def _pick_on_map(page: Page) -> None:
    page.locator(".map canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")


def _read_words(page: Page) -> None:
    page.locator("details.panel summary").last.click()


SCENES = {
    "for-you, nothing known": Scene(shows=".pick .stars"),
    "for-you, a history": Scene(address=f"#for-you?{HISTORY}"),
    "for-you, a person": Scene(address="#for-you?user=7"),
    "for-you, tuned": Scene(address=f"#for-you?{HISTORY}&surprise=40&variety=60&only.genres=drama,comedy"),
    "reasons": Scene(address=f"#for-you?{HISTORY}", act=_open_first, shows="#sheet .bars"),
    "what would remove it": Scene(address="#for-you?user=7", act=_ask_what_removes, shows="#sheet .bars"),
    "feedback with undo": Scene(address=f"#for-you?{HISTORY}", act=_dismiss, shows=".toast"),
    "search, 12,000 results": Scene(act=_search, shows=".results"),
    "choose a person": Scene(act=lambda page: page.locator("#who .button").first.click(), shows=".person"),
    "keyboard help": Scene(act=lambda page: page.keyboard.press("?"), shows=".keys-list"),
    "loading": Scene(address=f"#for-you?{HISTORY}", before=_hold, shows="#list .skeleton"),
    "reasons on their way": Scene(address=f"#for-you?{HISTORY}", before=_hold_reasons, shows=".card-reason .bone"),
    "error with retry": Scene(address=f"#for-you?{HISTORY}", before=_refuse, shows=".state.bad", fails=True),
    "offline": Scene(address=f"#for-you?{HISTORY}", act=_cut, shows=".state.bad", fails=True),
    "unknown person": Scene(address="#for-you?user=99999999", shows=".state", fails=True),
    "empty list": Scene(address=f"#for-you?{HISTORY}&only.year=3000..", shows=".state"),
    "read-only": Scene(address="#for-you?user=7", before=_session(["read"])),
    "key needed": Scene(before=_session([]), shows="#key-field"),
    "explore": Scene(address=f"#explore?{HISTORY}", shows=".map canvas"),
    "explore, similar titles": Scene(address=f"#explore?{HISTORY}", act=_pick_on_map, shows="#explore-panel .row-item"),
    "compare": Scene(address=f"#compare?{HISTORY}", shows=".versus .row-item"),
    "compare, one model": Scene(address="#compare", before=_one_model, shows=".state"),
    "model": Scene(address="#model?model=mf", act=_read_words, shows="#health-tiles"),
}


def stage(page: Page, url: str, scene: Scene) -> None:
    """Opens the page and brings the scene about."""
    scene.before(page)
    page.goto(url + scene.address)
    if scene.act is not _nothing:
        expect(page.locator("#light")).to_have_text("Healthy")
        expect(page.locator(f":is({CARDS}, .map canvas, #health):visible").first).to_be_visible()
    scene.act(page)
    expect(page.locator(scene.shows).first).to_be_visible()
