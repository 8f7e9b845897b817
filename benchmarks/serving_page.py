"""How soon the page shows its first list, what it weighs, and what its map costs.

    python benchmarks/serving_page.py [--visits 10]

A real `palate serve` on loopback with the catalogue of the browser tests (13,000 items), headless Chromium, each visit
with an empty cache. First list: from the start of the navigation until the first card is there. Needs the extra
`browser`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from common import ROOT, write_result

sys.path.insert(0, str(ROOT / "tests" / "serving"))
from page_service import browser, chromium, serving, train
from playwright.sync_api import Browser

STATIC = ROOT / "src" / "palate" / "serving" / "static"
ADDRESSES = {
    "new visitor": "",
    "a history of three": "#for-you?history=7381:5,3345:4,7939",
    "a person": "#for-you?user=7",
}
KEYS = ("+", "+", "ArrowRight", "ArrowDown", "-", "-", "0")
FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def first_list(chrome: Browser, url: str) -> float:
    """Milliseconds until the first card is there."""
    context = chrome.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.add_init_script(
        "new MutationObserver((_, watch) => { if (document.querySelector('#list .card[data-id]')) "
        "{ window.first = performance.now(); watch.disconnect(); } })"
        ".observe(document, { childList: true, subtree: true });"
    )
    page.goto(url)
    page.wait_for_function("() => window.first")
    found = float(page.evaluate("window.first"))
    context.close()
    return found


def map_frames(chrome: Browser, url: str) -> list[float]:
    """CPU milliseconds of the page's thread for each key on the map."""
    context = chrome.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.goto(url + "#explore")
    page.locator(".map canvas").focus()
    meter = context.new_cdp_session(page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        found = meter.send("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in found if one["name"] == "TaskDuration")

    taken = []
    for key in KEYS:
        before = spent()
        page.keyboard.press(key)
        page.evaluate(FRAME)
        taken.append(1000 * (spent() - before))
    context.close()
    return taken


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=10)
    options = parser.parse_args()
    path = chromium()
    if path is None:
        sys.exit("no Chromium found; set PALATE_CHROMIUM to its path")
    rows = []
    with (
        tempfile.TemporaryDirectory() as name,
        browser(path) as chrome,
        serving(train(Path(name)), Path(name)) as running,
    ):
        for what, address in ADDRESSES.items():
            taken = [first_list(chrome, running.url + address) for _ in range(options.visits)]
            rows.append(
                (f"first list, {what}, ms", f"{statistics.median(taken):.0f}", f"{min(taken):.0f}", f"{max(taken):.0f}")
            )
        frames = map_frames(chrome, running.url)
        rows.append(
            ("a key on the map, CPU ms", f"{statistics.median(frames):.1f}", f"{min(frames):.1f}", f"{max(frames):.1f}")
        )
    size = sum(file.stat().st_size for file in STATIC.rglob("*") if file.is_file())
    rows.append(("HTML, CSS and scripts, kB", f"{size / 1000:.1f}", "", ""))
    about = [
        f"13,000 items, loopback, headless Chromium, empty cache, {options.visits} visits each. Load of the machine at "
        f"the end: {os.getloadavg()[0]:.1f} on 2 cores.",
        "Bars: first list 1,000 ms, a frame of the map 100 ms, 200 kB.",
    ]
    write_result("serving_page", "The page: first list, map, size", about, ("what", "median", "least", "most"), rows)


if __name__ == "__main__":
    main()
