"""One picture of the page in every tab and state, on phone, tablet and desktop, in light and dark: the contact sheet.

python tests/serving/page_sheet.py FOLDER             # pictures of all states and sheet-*.png
python tests/serving/page_sheet.py --readme           # docs/images/page.png, from the test's own catalogue
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from page_scenes import SCENES, stage
from page_service import browser, chromium, serving, train
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser

SIZES = {"phone": (390, 844), "tablet": (768, 1024), "desktop": (1280, 900)}
THEMES = ("light", "dark")
ROW_HEIGHT, MARGIN, LABEL = 480, 24, 32
README = Path(__file__).resolve().parents[2] / "docs" / "images" / "page.png"
README_ADDRESS = "#for-you?history=7381:5,3345:4,7939:5,11592"


def shoot(chrome: Browser, url: str, name: str, size: tuple[int, int], theme: str, target: Path) -> None:
    """A picture of a scene."""
    width, height = size
    context = chrome.new_context(
        viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
    )
    page = context.new_page()
    stage(page, url, SCENES[name])
    page.wait_for_timeout(400)
    page.screenshot(path=target)
    context.close()


def sheet(folder: Path, device: str, target: Path) -> None:
    """All pictures of a device: a row for each scene, light beside dark."""
    width, height = SIZES[device]
    cell = round(ROW_HEIGHT * width / height)
    columns = max(1, 2400 // (2 * cell + 3 * MARGIN))
    rows = -(-len(SCENES) // columns)
    wide, high = columns * (2 * cell + 2 * MARGIN) + MARGIN, rows * (ROW_HEIGHT + LABEL + MARGIN) + MARGIN
    whole = Image.new("RGB", (wide, high), "#808080")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(20)
    for place, name in enumerate(SCENES):
        left = MARGIN + (place % columns) * (2 * cell + 2 * MARGIN)
        top = MARGIN + (place // columns) * (ROW_HEIGHT + LABEL + MARGIN)
        draw.text((left, top), name, "white", font)
        for at, theme in enumerate(THEMES):
            with Image.open(folder / f"{slug(name)}-{device}-{theme}.png") as picture:
                whole.paste(picture.resize((cell, ROW_HEIGHT)), (left + at * (cell + MARGIN // 2), top + LABEL))
    whole.save(target)


def slug(name: str) -> str:
    """The name of a scene as the name of a file."""
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def all_pictures(chrome: Browser, url: str, folder: Path) -> list[Path]:
    """Shoot everything; gives the sheets, one for each device."""
    folder.mkdir(parents=True, exist_ok=True)
    sheets = []
    for device, size in SIZES.items():
        for name in SCENES:
            for theme in THEMES:
                shoot(chrome, url, name, size, theme, folder / f"{slug(name)}-{device}-{theme}.png")
        sheets.append(folder / f"sheet-{device}.png")
        sheet(folder, device, sheets[-1])
    return sheets


def readme(chrome: Browser, url: str, target: Path) -> None:
    """The picture of the README: a list with reasons, light."""
    context = chrome.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce", color_scheme="light")
    page = context.new_page()
    page.goto(url + README_ADDRESS)
    page.locator(".card-reason:not([aria-hidden])").first.wait_for()
    page.wait_for_timeout(400)
    page.screenshot(path=target)
    context.close()


def main(arguments: list[str]) -> None:
    path = chromium()
    if path is None or len(arguments) != 1:
        sys.exit(__doc__ if path else "no Chromium found; set PALATE_CHROMIUM to its path")
    with tempfile.TemporaryDirectory() as name, browser(path) as chrome:
        runs = train(Path(name), hostile=arguments[0] != "--readme")
        with serving(runs, Path(name)) as running:
            if arguments[0] == "--readme":
                readme(chrome, running.url, README)
            else:
                print(*all_pictures(chrome, running.url, Path(arguments[0])), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
