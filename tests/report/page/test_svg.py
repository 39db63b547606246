"""A figure inside a page."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest

from kdjax.report.page import svg


def paint(figure):
    axes = figure.add_subplot(title="$a_1$ & <b>", xlabel="x")
    for index in range(8):
        axes.plot([0, 1], [index, 2], label=f"line {index}", marker="o", **svg.style(index))
    axes.fill_between([0, 1], [0, 0], [1, 2], color=svg.COLOURS["series-1"], alpha=0.2)
    figure.legend(loc="outside lower center", ncols=2)


@pytest.fixture(scope="module")
def drawn():
    return str(svg.render("first", 'a "title" <&>', paint))


def test_a_figure_is_one_well_formed_element_with_a_name(drawn):
    element = ElementTree.fromstring(drawn)
    assert element.tag == "svg"
    assert (element.get("role"), element.get("aria-label")) == ("img", 'a "title" <&>')
    assert element.get("viewBox").startswith("0 0 ")
    assert not {"width", "height"} & set(element.keys())  # the page gives the size


def test_text_stays_text_and_is_no_formula(drawn):
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("text")]
    assert "$a_1$ & <b>" in texts and "line 7" in texts


def test_every_colour_is_a_variable_of_the_page(drawn):
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?!\")", drawn) == []
    assert set(re.findall(r"var\(--([\w-]+)\)", drawn)) >= {"ink", "muted", "grid", *svg.SERIES}


def test_nothing_outside_the_page_is_named(drawn):
    assert "http" not in drawn and "<style" not in drawn and "<metadata" not in drawn


def test_every_reference_is_to_an_id_of_the_same_figure(drawn):
    ids = re.findall(r'\bid="([^"]*)"', drawn)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', drawn)
    assert {one or other for one, other in used} == set(ids)
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("first-") for name in ids)


def test_two_figures_share_no_id(drawn):
    other = str(svg.render("second", "", paint))
    assert not set(re.findall(r'\bid="([^"]*)"', drawn)) & set(re.findall(r'\bid="([^"]*)"', other))


def test_a_figure_is_drawn_the_same_twice_and_leaves_no_setting_behind(drawn):
    before = dict(mpl.rcParams)
    assert str(svg.render("first", 'a "title" <&>', paint)) == drawn
    assert dict(mpl.rcParams) == before


def test_series_differ_in_colour_and_in_dashes_even_after_the_colours_are_used_up():
    looks = [tuple(svg.style(index).values()) for index in range(24)]
    assert len(set(looks)) == 24
    first = looks[: len(svg.SERIES)]
    assert len({colour for colour, _ in first}) == len({dashes for _, dashes in first}) == 6
