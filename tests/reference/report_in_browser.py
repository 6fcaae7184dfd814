"""Uses a report of `impasto compare` as a reader would, in headless Chromium, and takes screenshots of it.

    pip install playwright
    python tests/reference/report_in_browser.py REPORT/report.html SCREENSHOTS/ [--chromium /usr/bin/chromium]

Fails when the console shows an error, anything is fetched from outside, the page is wider than its window, the slider does not
move, a filter does not filter, or a key does nothing. The screenshots (375 and 1440 pixels wide, light, dark, and print as
PDF) are for eyes. The report must have at least two methods, two photos and two paintings.
"""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS = (375, 1440)


def problems_of(page):
    """Collects what a reader never sees: console errors, exceptions, requests."""
    found = []
    page.on("console", lambda message: found.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(f"exception: {error}"))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else found.append(f"fetched {request.url}"))
    page.on("dialog", lambda dialog: (found.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return found


def shown(page):
    """How many pictures the grid shows."""
    return page.locator("#grid .cell button.frame:visible").count()


def expect(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok  {what}")


def check_filters(page):
    everything = shown(page)
    expect(everything > 3, f"{everything} pictures in the grid")
    for field in ("by-content", "by-style"):
        page.select_option(f"#{field}", index=1)
        some = shown(page)
        expect(0 < some < everything, f"#{field} leaves {some} of {everything}")
        page.click("#filters button[type=reset]")
        page.wait_for_function("document.querySelector('#by-content').value === ''")
        page.wait_for_timeout(50)
        expect(shown(page) == everything, f"#{field} can be reset")
    chip = page.locator("#methods button").first
    chip.click()
    some = shown(page)
    expect(some < everything and chip.get_attribute("aria-pressed") == "false", f"a method can be left out: {some} left")
    chip.press("Enter")
    expect(shown(page) == everything, "and brought back with the keyboard")
    if page.locator("#by-setting-part").is_visible():
        page.select_option("#by-setting", index=1)
        expect(0 < shown(page) < everything, "settings filter")
        page.click("#filters button[type=reset]")
        page.wait_for_timeout(50)


def check_viewer(page):
    first = page.locator("#grid .cell button.frame:visible").first
    first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer").is_visible(), "Enter opens a picture")
    cut = lambda: page.evaluate("document.querySelector('#stage').style.getPropertyValue('--cut')")
    title = lambda: page.inner_text("#viewer-title")
    before = cut()
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, middle, steps=6)
    page.mouse.up()
    moved = float(cut().rstrip("%"))
    expect(cut() != before and abs(moved - 20) < 3, f"the slider follows the pointer: {before} to {cut()}")
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    expect(float(cut().rstrip("%")) > moved, f"and the arrow keys when it has the focus: {cut()}")
    page.locator("#next").focus()
    names = [title()]
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
        names.append(title())
    expect(len(set(names)) >= 3 and names[-1] == names[0], "arrows walk through the pictures and back")
    page.keyboard.press("[")
    there = cut()
    page.keyboard.press("]")
    expect(there != cut(), "brackets move the slider")
    page.locator("#viewer").focus()
    page.keyboard.press(" ")
    expect(cut() in ("0%", "100%"), "space flips")
    for option in page.locator("#against option").all():
        page.select_option("#against", option.get_attribute("value"))
        source = page.get_attribute("#before", "src")
        expect(source.startswith("data:image/jpeg"), f"before: {option.inner_text()}")
    page.select_option("#against", "photo")
    page.locator("#viewer details summary").click()
    expect('"' in page.inner_text("#recipe"), "the recipe is shown")
    page.keyboard.press("Escape")
    expect(not page.locator("#viewer").is_visible(), "Escape closes")
    focused = page.evaluate("document.activeElement.className")
    expect("frame" in focused, "and the focus is back in the grid")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("screenshots", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    args.screenshots.mkdir(parents=True, exist_ok=True)
    address = args.report.resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": 900 if width > 600 else 740},
                                              color_scheme=scheme, device_scale_factor=1)
                context.set_offline(True)
                page = context.new_page()
                problems = problems_of(page)
                page.goto(address)
                print(f"-- {width} px, {scheme}")
                page.wait_for_timeout(300)
                wide = page.evaluate("document.documentElement.scrollWidth")
                expect(wide <= width, f"no sideways scrolling: {wide} px in a window of {width}")
                # Every picture has to be there, those far below too.
                page.evaluate("for (const image of document.images) image.loading = 'eager'")
                page.wait_for_function("[...document.images].every((image) => !image.src || image.complete)")
                broken = page.evaluate("[...document.querySelectorAll('#grid img')].filter((image) => !image.naturalWidth).length")
                expect(broken == 0, "every picture can be decoded")
                check_filters(page)
                check_viewer(page)
                page.evaluate("window.scrollTo(0, 0)")
                page.screenshot(path=args.screenshots / f"{width}-{scheme}.png", full_page=True)
                page.locator("#grid .cell button.frame:visible").nth(1).click()
                page.wait_for_timeout(200)
                page.screenshot(path=args.screenshots / f"{width}-{scheme}-viewer.png")
                expect(not problems, f"a silent console {problems or ''}")
                if width > 600 and scheme == "light":
                    page.keyboard.press("Escape")
                    page.pdf(path=args.screenshots / "print.pdf", format="A4", landscape=True)
                context.close()
        browser.close()
    print("all is well")


if __name__ == "__main__":
    sys.exit(main())
