"""Figures as inline SVG."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest

from kdjax.report.page import svg


def paint(figure):
    axes = figure.add_subplot(title="$a_1$ & <b>", xlabel="x")
    for index in range(12):
        axes.plot([0, 1], [index, 2], label=f"line {index}", marker="o", **svg.style(index))
    axes.fill_between([0, 1], [0, 0], [1, 2], color=svg.COLOURS["series-1"], alpha=0.2)
    figure.legend(loc="outside lower center", ncols=2)


@pytest.fixture(scope="module")
def drawn():
    return str(svg.render("first", 'a "title" <&>', paint))


def test_a_figure_is_a_single_well_formed_element_with_a_label(drawn):
    element = ElementTree.fromstring(drawn)
    assert element.tag == "svg"
    assert (element.get("role"), element.get("aria-label")) == ("img", 'a "title" <&>')
    assert element.get("viewBox").startswith("0 0 ")
    assert not {"width", "height"} & set(element.keys())  # the page gives the size


def test_text_is_kept_as_text_and_not_parsed_as_math(drawn):
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("text")]
    assert "$a_1$ & <b>" in texts and "line 11" in texts


def test_every_colour_is_a_css_variable_of_the_page(drawn):
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?!\")", drawn) == []
    assert set(re.findall(r"var\(--([\w-]+)\)", drawn)) >= {"ink", "muted", "grid", *svg.SERIES}


def test_there_are_no_external_references_styles_or_metadata(drawn):
    assert "http" not in drawn and "<style" not in drawn and "<metadata" not in drawn


def test_references_are_to_ids_of_the_same_figure(drawn):
    ids = re.findall(r'\bid="([^"]*)"', drawn)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', drawn)
    assert {href or url for href, url in used} == set(ids)
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("first-") for name in ids)


def test_figures_have_different_ids(drawn):
    second = str(svg.render("second", "", paint))
    ids, second_ids = (set(re.findall(r'\bid="([^"]*)"', text)) for text in (drawn, second))
    assert not ids & second_ids


def test_rendering_is_reproducible_and_restores_the_settings(drawn):
    before = dict(mpl.rcParams)
    assert str(svg.render("first", 'a "title" <&>', paint)) == drawn
    assert dict(mpl.rcParams) == before


def test_series_differ_in_colour_and_dashes_also_when_colours_repeat():
    styles = [tuple(svg.style(index).values()) for index in range(24)]
    assert len(set(styles)) == 24
    first = styles[: len(svg.SERIES)]
    assert len({colour for colour, _ in first}) == len({dashes for _, dashes in first}) == 10
