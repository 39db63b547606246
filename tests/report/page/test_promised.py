"""The section "What is promised" of the page of a run."""

import json
import re

import pytest
from support import sample_runs
from support.pages import assert_valid, plain_text

from kdjax.evaluation import promises
from kdjax.evaluation.promises import terms
from kdjax.report import page
from kdjax.report.page import conclusion, promised, tables


def read(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Returns a run with its page."""
    folder = tmp_path_factory.mktemp("promised") / "run"
    run = page.read(sample_runs.add_promises(sample_runs.write(folder)))
    return run, page.write(run).read_text(encoding="utf-8")


def section_of(html):
    """Returns the text of the section."""
    found = re.search(r'<section aria-labelledby="promised">(.*?)</section>', html, re.DOTALL)
    assert found
    return " ".join(plain_text(found[1]).split())


def test_section_is_valid_html_and_in_the_contents(shown):
    _, html = shown
    parsed = assert_valid(html)
    assert any(link.get("href") == "#promised" for link in parsed.all("a"))
    headings = [element["id"] for element in parsed.all("h2") if "id" in element]
    assert headings.index("promised") == headings.index("conclusion") + 1


def test_section_has_every_statement_with_its_scope_and_table(shown):
    run, html = shown
    text = section_of(html)
    statements = promises.statements(run.results)
    assert len(statements) >= 3
    for each in statements:
        assert each.title in text
        for sentence in each.sentences:
            assert sentence in text
        assert f"{each.scope[0].upper()}{each.scope[1:]}." in text
        for cell in (cell for row in each.table.rows for cell in row) if each.table else ():
            assert cell in text


def test_section_says_how_to_read_it_for_which_images_and_what_is_not_promised(shown):
    run, html = shown
    text = section_of(html)
    sections = {**terms.before(), **terms.after(run.results["promises"])}
    for sentence in (*terms.READING, *(each for part in sections.values() for each in part)):
        assert sentence in text
    first = promises.statements(run.results)[0].title
    places = [text.index(part) for part in ("For which images", first, "How a promise can fail")]
    assert places == sorted(places) and all(heading in text for heading in sections)
    # Said once, in the section.
    assert "Assumptions of the certificate" not in html


def test_numbers_do_not_part_from_their_percent_sign(shown):
    _, html = shown
    found = re.search(r'<section aria-labelledby="promised">(.*?)</section>', html, re.DOTALL)
    assert not re.search(r"\d %", found[1])


def test_certified_risks_are_those_that_hold_together(shown):
    run, _ = shown
    table = tables.certificates(run)
    assert table.caption.startswith("Risks certified together")
    assert [row[0] for row in table.rows] == ["10 *", "5", "2", "1", "0.5"]
    assert "any row may be chosen after a look at the table" in table.note
    assert "each of these holds with 95 %, not several together" in table.note
    assert "SGR" in " ".join(table.head) and table.note.endswith(".")


def text_of(run):
    """Returns all sentences of the section, without the page around it."""
    found = promised.section(run.results)
    sentences = [sentence for each in found.statements for sentence in each.sentences]
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")


def test_results_of_an_earlier_version_have_no_section(tmp_path):
    """Their page has the assumptions of the certificate, see test_single."""
    run = page.read(sample_runs.write(tmp_path / "run"))
    assert promised.section(run.results) is None
    assert tables.certificates(run).caption.startswith("Certified thresholds")


@pytest.mark.slow
def test_another_risk_computes_the_promises_again(tmp_path):
    folder = sample_runs.add_promises(sample_runs.write(tmp_path / "run"))
    run = page.read(folder, risk=0.2, delta=0.1)
    assert run.results["promises"]["selective_risk"]["risk"] == 0.2
    assert run.results["promises"]["joint"]["delta"] == 0.1
    assert "that the model accepts, at most 20 % get a wrong class" in text_of(run)
    assert read(folder)["promises"]["selective_risk"]["requested"] == 0.1


def test_another_risk_keeps_the_statement_about_student_and_teacher(finished_run):
    stored = finished_run.results["promises"]["cascade"]
    computed = page.read(finished_run.folder, risk=0.9).results["promises"]["cascade"]
    assert (computed["risk"], computed["fallback"]) == (0.9, stored["fallback"])
    assert computed["rows"] == stored["rows"]  # they do not depend on the risk


@pytest.mark.slow
def test_without_predictions_of_dev_nothing_is_promised_again(tmp_path):
    folder = sample_runs.add_promises(sample_runs.write(tmp_path / "run"))
    (folder / "predictions" / "dev.npz").unlink()
    assert page.read(folder, risk=0.2).results["promises"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coverage", "part", "start"),
    [
        (0.5, "is certified together with the risk", "Both requests can be met"),
        (0.9999, "could not be certified together", "Not both"),
    ],
)
def test_a_requested_coverage_is_in_the_summary_and_in_the_section(tmp_path, coverage, part, start):
    folder = sample_runs.write(tmp_path / "run", draw=sample_runs.all_correct)
    run = page.read(sample_runs.add_promises(folder, coverage=coverage))
    evidence = " ".join(conclusion.conclude(run).evidence)
    assert part in evidence and "requested coverage of at least" in evidence
    assert run.operating_point.certified and start in text_of(run)


@pytest.mark.slow
def test_a_run_that_certifies_nothing_says_so(tmp_path):
    folder = sample_runs.write(tmp_path / "run", draw=sample_runs.all_wrong)
    text = text_of(page.read(sample_runs.add_promises(folder)))
    assert "Nothing is promised, and the model accepts no image" in text
    assert "No share of accepted images can be promised" in text
