"""Checks that an HTML page is well-formed and self-contained, and helpers to read its text."""

import html.parser
import itertools
import re

VOID_TAGS = {"meta", "link", "br", "img", "wbr"}


class Page(html.parser.HTMLParser):
    """Collects the elements and texts of a page, and checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def assert_valid(text):
    """Checks that a page is well-formed, self-contained, and has ordered headings and valid links.

    Returns:
        The parsed page.
    """
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "iframe", "object", "embed"} & set(tags)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    targets = [attributes.get("src", attributes.get("href", "")) for _, attributes in page.elements]
    assert all(target.startswith(("data:", "#")) or not target for target in targets)
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for a in page.all("a") if not a["href"].startswith("data:")}
    assert links <= set(ids)
    return page


def plain_text(text):
    """Returns the text of a page with normalized spaces."""
    joined = "".join(Page(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).texts)
    return " ".join(joined.split())
