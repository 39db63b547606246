"""Headless Chromium for tests of pages; they are skipped without it."""

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason=f"Chromium is not installed: none of {', '.join(NAMES)}"
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
)

# JavaScript: `contrast(colour, background)` of WCAG 2.2, `behind(element)`, the colour behind an
# element, and `hasText(element)`.
CONTRAST_FUNCTIONS = """
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = colour => {
    const [r, g, b] = rgba(colour).slice(0, 3).map(value => value / 255).map(
      value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    const colour = getComputedStyle(node).backgroundColor;
    return rgba(colour)[3] ? colour : behind(node.parentElement);
  };
  const contrast = (colour, background) => {
    const [low, high] = [luminance(colour), luminance(background)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const hasText = node => [...node.childNodes].some(
    child => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
"""
# The contrast of each text of a page with its background.
TEXT_CONTRASTS = f"""() => {{
  {CONTRAST_FUNCTIONS}
  return [...document.querySelectorAll("body *:not(script)")].filter(hasText).map(node => {{
    const style = getComputedStyle(node);
    const colour = node.closest("svg") ? style.fill : style.color;
    return [node.textContent.trim().slice(0, 40), contrast(colour, behind(node))];
  }});
}}"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Yields a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()
