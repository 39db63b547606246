import pytest

from kdjax.report import table

COVERAGES = ("100", "95", "90", "85", "80", "75", "70")


def score(shift):
    """The values of one score, each unlike all others, so that a swapped column shows."""
    return {
        "dev_aurc": 0.011114 + shift,
        "aurc": 0.022226 + shift,
        "e_aurc": 0.033336 + shift,
        "augrc": 0.044444 + shift,
        "auroc": 0.555555 + shift,
        "error_at_coverage": {c: float(c) / 1000 + shift for c in COVERAGES},
        "thresholds": {
            c: {
                "threshold": float(c) / 99 + shift,
                "test_coverage": float(c) / 101,
                "test_error": shift / float(c),
            }
            for c in COVERAGES[1:]
        },
    }


def network(shift):
    return {
        "dev": {"examples": 4321, "accuracy": 0.91236 + shift, "nll": 0.43214, "ece": 0.01019},
        "test": {"examples": 26032, "accuracy": 0.90124 + shift, "nll": 0.54326, "ece": 0.02021},
    }


RESULTS = {
    **network(0),
    "classes": 10,
    "best_score": "margin",
    "scores": {"reservation": score(0.2), "margin": score(0.1)},
    "teacher": network(0.05),
}


@pytest.fixture
def shown(capsys, monkeypatch):
    def show(results=RESULTS, columns="80"):
        monkeypatch.setenv("COLUMNS", columns)
        table.show(results, "digits in runs/digits")
        return capsys.readouterr().out.splitlines()

    return show


def rows(lines, title):
    """The cells of the table under a title, the head first."""
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    cells = []
    for line in lines[start + 1 :]:
        if line.startswith("└"):
            return cells
        if line[0] in "│┃":
            cells.append([cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")])
    raise AssertionError(f"the table {title!r} does not end")


def test_accuracies_of_teacher_and_student_stand_together(shown):
    assert rows(shown(), "digits in runs/digits") == [
        ["", "split", "examples", "accuracy %", "NLL", "ECE %"],
        ["teacher", "dev", "4,321", "96.24", "0.4321", "1.02"],
        ["teacher", "test", "26,032", "95.12", "0.5433", "2.02"],
        ["student", "dev", "4,321", "91.24", "0.4321", "1.02"],
        ["student", "test", "26,032", "90.12", "0.5433", "2.02"],
    ]


def test_without_a_teacher_only_the_student_is_shown(shown):
    alone = {key: value for key, value in RESULTS.items() if key != "teacher"}
    found = rows(shown(alone), "digits in runs/digits")
    assert [row[:2] for row in found[1:]] == [["student", "dev"], ["student", "test"]]


def test_errors_stand_under_their_coverage(shown):
    assert rows(shown(), "Error % on test at coverage %") == [
        ["score", *COVERAGES],
        ["reservation", "30.00", "29.50", "29.00", "28.50", "28.00", "27.50", "27.00"],
        ["margin *", "20.00", "19.50", "19.00", "18.50", "18.00", "17.50", "17.00"],
    ]


def test_areas_are_shown_in_thousandths(shown):
    assert rows(shown(), "Ranking on test (areas x 1000)") == [
        ["score", "AURC", "E-AURC", "AUGRC", "AUROC %", "dev AURC"],
        ["reservation", "222.23", "233.34", "244.44", "75.56", "211.11"],
        ["margin *", "122.23", "133.34", "144.44", "65.56", "111.11"],
    ]


def test_thresholds_are_those_of_the_best_score(shown):
    lines = shown()
    found = rows(lines, "Thresholds of margin chosen on dev")
    assert found[1:3] == [["95", "1.0596", "94.06", "0.11"], ["90", "1.00909", "89.11", "0.11"]]
    assert [row[0] for row in found[1:]] == list(COVERAGES[1:])
    assert lines[-1] == "* the score with the lowest AURC on dev"


def test_a_narrow_place_cuts_no_column(shown):
    lines = shown(columns="20")
    assert lines == shown(columns="100")
    assert 60 < max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_what_a_score_cannot_give_is_a_dash(shown):
    perfect = score(0.1) | {"auroc": None}
    found = rows(shown(RESULTS | {"scores": {"margin": perfect}}), "Ranking")
    assert found[1] == ["margin *", "122.23", "133.34", "144.44", "-", "111.11"]
    perfect["thresholds"]["90"]["test_error"] = None
    found = rows(shown(RESULTS | {"scores": {"margin": perfect}}), "Thresholds")
    assert found[2][-1] == "-"
