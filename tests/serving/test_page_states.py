"""Every tab and state of the page: no accessibility fault in light and dark, no horizontal scrolling on a phone."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install 'palate[browser]'")
pytest.importorskip("axe_playwright_python", reason="pip install 'palate[browser]'")

from axe_playwright_python.sync_playwright import Axe
from page_scenes import CARDS, SCENES, stage
from page_service import Service
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, ViewportSize, expect

from palate.serving.keys import add_key, revoke_key
from palate.serving.store import Store

SERIOUS = ("serious", "critical")
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
MAIN = ("for-you, nothing known", "for-you, a history", "for-you, a person", "reasons", "explore", "compare", "model")
"""Scenes that are checked in dark, too; all have the same colours."""

PATIENCE_MS = 60_000
"""How long anything may take: the machine may be busy with something else."""

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def one_page(chrome: Browser) -> Iterator[Page]:
    """A page for all tests of the file: a new one for each costs more than what is tested."""
    context = chrome.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(one_page: Page) -> Iterator[Page]:
    """The page as new: on a desktop, light, nothing intercepted, nothing remembered."""
    one_page.set_viewport_size(DESKTOP)
    one_page.emulate_media(media="screen", color_scheme="light", reduced_motion="reduce")
    yield one_page
    one_page.unroute_all(behavior="ignoreErrors")
    one_page.context.set_offline(False)
    if one_page.url.startswith("http"):
        one_page.evaluate("() => { sessionStorage.clear(); localStorage.clear(); }")
    one_page.goto("about:blank")


AXE = Axe()
MANY = (".card", ".pick", ".row-item", ".chip", ".result", ".person")
ALIKE = {"exclude": [[f"{one}:nth-child(n+4)"] for one in MANY]}
"""Of elements that are made alike the first three are checked: the time grows with their number."""


def faults(page: Page, **options: Any) -> list[Any]:
    """Serious findings of axe: rule, selector, and what it says."""
    found = AXE.run(page, ALIKE, {"resultTypes": ["violations"], **options}).response["violations"]
    return [
        (one["id"], n["target"], n["failureSummary"]) for one in found if one["impact"] in SERIOUS for n in one["nodes"]
    ]


@pytest.mark.parametrize("name", SCENES)
def test_state_is_accessible_in_light_and_dark_and_fits_a_phone(name: str, page: Page, service: Service) -> None:
    scene, said = SCENES[name], list[str]()

    def hear(what: ConsoleMessage | Error) -> None:
        if isinstance(what, Error) or (what.type == "error" and not scene.fails):
            said.append(str(what))

    page.on("pageerror", hear)
    page.on("console", hear)
    stage(page, service.url, scene)
    assert faults(page) == []
    if name in MAIN:
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        assert faults(page, runOnly=["color-contrast"]) == []
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.remove_listener("pageerror", hear)
    page.remove_listener("console", hear)
    assert said == []


def test_a_retry_after_an_error_shows_the_list(page: Page, service: Service) -> None:
    stage(page, service.url, SCENES["error with retry"])
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(CARDS)).to_have_count(12)


def test_the_page_recovers_when_the_network_is_back(page: Page, service: Service) -> None:
    stage(page, service.url, SCENES["offline"])
    page.context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator(CARDS)).to_have_count(12)


@pytest.fixture
def read_key(service: Service) -> Iterator[str]:
    """A key that may read, while the service needs one."""
    store = Store(service.store)
    key = add_key(store.engine, "reader", ["read"])
    wait_for_keys(service, True)
    yield key
    revoke_key(store.engine, key.split("_")[1])
    wait_for_keys(service, False)
    store.close()


def wait_for_keys(service: Service, needed: bool) -> None:
    """Until the service has noticed a new or a revoked key."""
    found = None
    while found is not needed:
        with urllib.request.urlopen(service.url + "v1/session") as answer:
            found = json.load(answer)["auth_required"]
        time.sleep(0.1)


def test_keys_lock_the_page_and_a_read_key_makes_it_read_only(page: Page, service: Service, read_key: str) -> None:
    page.goto(service.url + "#for-you?user=7")
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    page.get_by_label("Key", exact=True).fill(read_key)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator(CARDS)).to_have_count(12)
    expect(page.locator("#history-chips")).to_contain_text("Read-only: this page has no key that may write feedback.")
    expect(page.locator(f"{CARDS} [data-act=like]").first).to_have_attribute("aria-disabled", "true")
    page.locator(f"{CARDS} [data-act=like]").first.click(force=True)
    expect(page.locator(".toast")).to_contain_text("Read-only")
    expect(page.locator(CARDS)).to_have_count(12)


def test_print_leaves_out_what_cannot_be_clicked_on_paper(page: Page, service: Service) -> None:
    stage(page, service.url, SCENES["for-you, a history"])
    page.emulate_media(media="print")
    expect(page.locator(".side")).to_be_hidden()
    expect(page.locator(f"{CARDS} .card-actions").first).to_be_hidden()
    expect(page.locator(f"{CARDS} .card-title").first).to_be_visible()


def test_theme_switch_is_kept(page: Page, service: Service) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(service.url)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch to dark colours").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Switch to light colours")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
