"""The pages in headless Chromium: light and dark, narrow and wide, and with the keyboard."""

import pytest
from support.browser import CONTRAST_FUNCTIONS, TEXT_CONTRASTS, chromium, needs_chromium

from kdjax.report import page

pytestmark = [pytest.mark.slow, needs_chromium]
NARROW, WIDE = 360, 1280

# The contrast of each series of a plot with the page.
SERIES_CONTRASTS = f"""() => {{
  {CONTRAST_FUNCTIONS}
  const paper = behind(document.body.querySelector("main"));
  const variables = getComputedStyle(document.documentElement);
  return [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(number => `--series-${{number}}`).map(
    name => [name, contrast(variables.getPropertyValue(name), paper)]);
}}"""

# For each plot: its size, the texts outside its frame, and the size of the smallest text.
PLOTS = """() => [...document.querySelectorAll("svg")].map(svg => {
  const frame = svg.getBoundingClientRect();
  const outside = [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 2 || box.right > frame.right + 2
      || box.top < frame.top - 2 || box.bottom > frame.bottom + 2;
  });
  const sizes = [...svg.querySelectorAll("text")].map(
    text => parseFloat(getComputedStyle(text).fontSize) * svg.getScreenCTM().a);
  return {
    label: svg.ariaLabel,
    area: frame.width * frame.height,
    drawn: svg.getBBox().width * svg.getBBox().height,
    outside: outside.map(text => text.textContent),
    smallest: Math.min(...sizes),
  };
})"""

IMAGES = (
    "[...document.images].map(image => [image.naturalWidth, image.getBoundingClientRect().width])"
)
OPEN_ALL = "document.querySelectorAll('details').forEach(element => { element.open = true; })"
REACHABLE = """() => [...document.querySelectorAll("summary, [role=region], nav a")].filter(
  element => element.checkVisibility()).length"""
REACHED = """() => {
  const node = document.activeElement;
  node.dataset.reached = "yes";
  return document.querySelectorAll(
    "summary[data-reached], [role=region][data-reached], nav a[data-reached]").length;
}"""


@pytest.fixture(scope="module")
def tab_and_events():
    """A tab, which every page is loaded into, and its console messages, errors and requests."""
    events = []
    with chromium() as browser:
        tab = browser.new_page()
        tab.on("console", lambda message: events.append(message.text))
        tab.on("pageerror", lambda error: events.append(str(error)))
        tab.on("request", lambda request: events.append(request.url))
        yield tab, events


@pytest.fixture(scope="module")
def pages(written, tmp_path_factory):
    compared = tmp_path_factory.mktemp("compared") / "comparison.html"
    payoff = written.run.metadata["config"]["objective"]["payoff"]
    page.write_comparison([written.run, with_payoff(written.run, payoff)], compared)
    many = page.write_comparison(
        [with_payoff(written.run, payoff) for payoff in range(2, 8)],
        compared.with_name("many.html"),
    )
    return {"single": written.folder / "report.html", "comparison": compared, "many": many}


def with_payoff(run, payoff):
    """Returns a run whose config has this payoff, and whose folder is named after it."""
    config = run.metadata["config"]
    config = {**config, "objective": {**config["objective"], "payoff": payoff}}
    folder = run.folder / f"method=ka_gambler_sum,payoff={payoff}"
    return run._replace(metadata={**run.metadata, "config": config}, folder=folder)


@pytest.fixture
def visit(tab_and_events, pages):
    """Opens a page and its details; a console message, error or request fails the test."""
    tab, events = tab_and_events
    events.clear()

    def go(name, *, scheme="light", width=WIDE):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 800})
        address = pages[name].as_uri()
        tab.goto(address)
        tab.evaluate(OPEN_ALL)
        events.remove(address)
        return tab

    yield go
    assert [line for line in events if not line.startswith("data:")] == []


each_page = pytest.mark.parametrize("name", ["single", "comparison"])
each_scheme = pytest.mark.parametrize("scheme", ["light", "dark"])
each_width = pytest.mark.parametrize("width", [NARROW, WIDE])


@each_page
@each_scheme
def test_text_has_sufficient_contrast(visit, name, scheme):
    tab = visit(name, scheme=scheme)
    texts, series = tab.evaluate(TEXT_CONTRASTS), tab.evaluate(SERIES_CONTRASTS)
    assert len(texts) > 40
    assert [(text, value) for text, value in texts if value < 4.5] == []
    assert [(line, value) for line, value in series if value < 3] == []


def test_background_follows_the_colour_scheme(visit):
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert visit("single").evaluate(background) == "rgb(255, 255, 255)"
    assert visit("single", scheme="dark").evaluate(background) == "rgb(20, 23, 27)"


@each_page
@each_width
def test_page_is_not_wider_than_the_window(visit, name, width):
    tab = visit(name, width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@each_page
@each_width
def test_plots_are_within_their_frames_with_readable_text(visit, name, width):
    plots = visit(name, width=width).evaluate(PLOTS)
    assert len(plots) == (7 if name == "single" else 1)
    for plot in plots:
        assert plot["area"] > 40_000 and plot["drawn"] > 10_000, plot
        assert plot["outside"] == [], plot
        assert plot["smallest"] >= 10, plot


@each_width
@each_scheme
def test_small_multiples_of_many_runs_fit_the_window(visit, width, scheme):
    tab = visit("many", width=width, scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    plots = tab.evaluate(PLOTS)
    assert len(plots) == 6
    for plot in plots:
        assert plot["area"] > 15_000 and plot["drawn"] > 10_000, plot
        assert plot["outside"] == [] and plot["smallest"] >= 10, plot
    assert [(text, value) for text, value in tab.evaluate(TEXT_CONTRASTS) if value < 4.5] == []
    with tab.expect_download() as download:
        tab.locator("a[download]").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 7 and lines[0].startswith("run,folder,")


@each_width
def test_images_are_loaded_and_enlarged(visit, width):
    images = visit("single", width=width).evaluate(IMAGES)
    assert len(images) == 48
    assert all(natural == 5 and shown >= 90 for natural, shown in images)


@each_page
def test_every_control_is_reachable_by_keyboard(visit, name):
    tab = visit(name)
    expected = tab.evaluate(REACHABLE)
    assert expected >= (12 if name == "single" else 2)
    for _ in range(expected + 5):  # the skip link comes before them
        tab.keyboard.press("Tab")
        reached = tab.evaluate(REACHED)
    assert reached == expected


def test_details_open_by_keyboard_and_first_link_skips_to_content(visit):
    tab = visit("single")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.locator("summary").first.focus()
    for state in (False, True):
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.querySelector('details').open") is state
