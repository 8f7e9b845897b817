"""Opens the pages of the built site in Chromium and lists what does not fit: run `make docs` first.

python docs/check_layout.py [PICTURES]

A page has a fault if it is wider than the window, or if an element hides a part of its content without a scroll bar.
With PICTURES, a folder, a picture of each page at each width is written there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

SITE = Path(__file__).resolve().parents[1] / "site"
WIDTHS = (390, 800, 1300)
TOO_WIDE = r"""() => {
  const MARGIN = 8; // Less stays within the margin of the page.
  const found = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > window.innerWidth) found.push(`the page is ${wide} px wide`);
  const cut = new Set();
  const scrolls = (element) => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  for (const element of document.querySelectorAll(".rst-content *")) {
    const style = getComputedStyle(element);
    if (style.display === "inline" || scrolls(element) || element.closest("svg")) continue;
    if (element.scrollWidth <= element.clientWidth + MARGIN) continue;
    let above = element;
    while (above && !scrolls(above)) above = above.parentElement;
    if (!above) cut.add(element);
  }
  for (const element of cut) {
    if ([...element.querySelectorAll("*")].some((inner) => cut.has(inner))) continue;
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 50);
    const name = `<${element.tagName.toLowerCase()} class="${element.className}">`;
    found.push(`${name} holds ${element.scrollWidth} px in ${element.clientWidth} px: ${text}`);
  }
  return found;
}"""


def take(page: Page, path: Path, width: int) -> None:
    """A picture of the page in a window as tall as the page, but for more than 6,000 px."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height = min(page.evaluate("document.documentElement.scrollHeight"), 6000)
    page.set_viewport_size({"width": width, "height": height})
    page.screenshot(path=path)


def main(pictures: Path | None) -> int:
    """Print the faults of all pages; the exit code is 1 if there are any."""
    pages = sorted(SITE.rglob("*.html"))
    if not pages:
        sys.exit("there is no site; build it with: make docs")
    count = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page()
        page.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
        for path in pages:
            name = path.relative_to(SITE).with_suffix("").as_posix().removesuffix("/index")
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                for fault in page.evaluate(TOO_WIDE):
                    print(f"{name} at {width} px: {fault}")
                    count += 1
                if pictures:
                    take(page, pictures / f"{name.replace('/', '-')}-{width}.png", width)
        browser.close()
    print(f"{len(pages)} pages at {', '.join(map(str, WIDTHS))} px: {count or 'no'} faults")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
