"""The tables on the terminal."""

import pytest

from kdjax.report import console

COVERAGES = ("100", "95", "90", "85", "80", "75", "70")


def score(shift):
    """Returns metrics of a score; all values differ, so that a swapped column is noticed."""
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
        "calibration": {"examples": 99, "accuracy": 0.9 + shift, "nll": 0.41, "ece": 0.03},
        "test": {"examples": 26032, "accuracy": 0.90124 + shift, "nll": 0.54326, "ece": 0.02021},
    }


def certificate(shift, threshold):
    """Returns a certificate; all values differ."""
    return {
        "threshold": threshold,
        "coverage": 0.6 + shift,
        "risk_bound": 0.05,
        "test_coverage": 0.7 + shift,
        "test_error": 0.01 + shift if threshold else None,
    }


GUARANTEE = {
    "risk": 0.02,
    "delta": 0.05,
    "examples": 4800,
    "certificates": [
        {
            "risk": risk,
            "sgr": certificate(risk, 0.75 - risk),
            "learn_then_test": certificate(2 * risk, None if risk < 0.02 else 0.5 - risk),
        }
        for risk in (0.05, 0.02, 0.005)
    ],
}
RESULTS = {
    **network(0),
    "guarantee": GUARANTEE,
    "classes": 10,
    "best_score": "margin",
    "scores": {"reservation": score(0.2), "margin": score(0.1)},
    "teacher": network(0.05),
}


@pytest.fixture
def printed(capsys, monkeypatch):
    def show(results=RESULTS, columns="80"):
        monkeypatch.setenv("COLUMNS", columns)
        console.show(results, "digits in runs/digits")
        return capsys.readouterr().out.splitlines()

    return show


def rows(lines, title):
    """Returns the cells of the table with a title, headings first."""
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    cells = []
    for line in lines[start + 1 :]:
        if line.startswith("└"):
            return cells
        if line[0] in "│┃":
            cells.append([cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")])
    raise AssertionError(f"the table {title!r} does not end")


def test_accuracy_table_has_teacher_and_student(printed):
    assert rows(printed(), "digits in runs/digits") == [
        ["", "split", "examples", "accuracy %", "NLL", "ECE %"],
        ["teacher", "dev", "4,321", "96.24", "0.4321", "1.02"],
        ["teacher", "calibration", "99", "95.00", "0.4100", "3.00"],
        ["teacher", "test", "26,032", "95.12", "0.5433", "2.02"],
        ["student", "dev", "4,321", "91.24", "0.4321", "1.02"],
        ["student", "calibration", "99", "90.00", "0.4100", "3.00"],
        ["student", "test", "26,032", "90.12", "0.5433", "2.02"],
    ]


def test_accuracy_table_without_teacher_has_the_student_only(printed):
    no_teacher = {key: value for key, value in RESULTS.items() if key != "teacher"}
    cells = rows(printed(no_teacher), "digits in runs/digits")
    assert [row[:2] for row in cells[1:]] == [
        ["student", split] for split in ("dev", "calibration", "test")
    ]


def test_selective_risk_is_shown_by_coverage(printed):
    lines = printed()
    assert "abstains on the rest. selective risk: error among accepted" in lines
    assert rows(lines, "Selective risk % on test at coverage %") == [
        ["score", *COVERAGES],
        ["reservation", "30.00", "29.50", "29.00", "28.50", "28.00", "27.50", "27.00"],
        ["margin *", "20.00", "19.50", "19.00", "18.50", "18.00", "17.50", "17.00"],
    ]


def test_areas_are_multiplied_by_1000(printed):
    assert rows(printed(), "Ranking on test (areas x 1000)") == [
        ["score", "AURC", "E-AURC", "AUGRC", "AUROC %", "dev AURC"],
        ["reservation", "222.23", "233.34", "244.44", "75.56", "211.11"],
        ["margin *", "122.23", "133.34", "144.44", "65.56", "111.11"],
    ]


def test_thresholds_are_those_of_the_best_score(printed):
    lines = printed()
    cells = rows(lines, "Thresholds of margin chosen on dev")
    assert cells[0][2:] == ["coverage % on test", "selective risk % on test"]
    assert cells[1:3] == [["95", "1.0596", "94.06", "0.11"], ["90", "1.00909", "89.11", "0.11"]]
    assert [row[0] for row in cells[1:]] == list(COVERAGES[1:])
    assert "* the score with the lowest AURC on dev" in lines


def test_certificates_are_shown_with_their_test_results(printed):
    lines = printed()
    title = "Thresholds of margin certified on the calibration split (4,800 examples)"
    assert rows(lines, title) == [
        [
            "certified risk %",
            "certified by",
            "threshold",
            "coverage %",
            "test coverage %",
            "test risk %",
        ],
        ["5", "sgr", "0.7", "65.00", "75.00", "6.00"],
        ["5", "learn_then_test", "0.45", "70.00", "80.00", "11.00"],
        ["2", "sgr", "0.73", "62.00", "72.00", "3.00"],
        ["2 *", "learn_then_test", "0.48", "64.00", "74.00", "5.00"],
        ["0.5", "sgr", "0.745", "60.50", "70.50", "1.50"],
        ["0.5", "learn_then_test", "none", "61.00", "71.00", "-"],
    ]
    assert any(line.startswith("with probability 95 % over calibration splits") for line in lines)
    assert "* the requested risk, with the threshold that the run uses" in lines
    assert "certify at delta / S" in " ".join(lines)
    assert not any("together;" in line for line in lines)  # results of an earlier version


def test_certificates_that_hold_together_are_shown_with_their_delta(printed):
    entries = [{"risk": r, "learn_then_test": certificate(r, 0.5)} for r in (0.05, 0.02)]
    together = {"runs": 1, "simultaneous": {"delta": 0.025, "certificates": entries}}
    lines = printed(RESULTS | {"guarantee": GUARANTEE | together})
    assert lines[-2:] == [
        "with --delta=0.025 the certificates of learn_then_test at all these risks hold together;",
        "coverage % by certified risk %: 5: 65.00, 2: 62.00",
    ]
    lines = printed(RESULTS | {"guarantee": GUARANTEE | together | {"runs": 3}})
    assert "at all these risks and of all 3 students hold together" in lines[-2]


def test_a_narrow_terminal_truncates_no_column(printed):
    lines = printed(columns="20")
    assert lines == printed(columns="100")
    assert 60 < max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_undefined_metrics_are_shown_as_a_dash(printed):
    perfect = score(0.1) | {"auroc": None}
    cells = rows(printed(RESULTS | {"scores": {"margin": perfect}}), "Ranking")
    assert cells[1] == ["margin *", "122.23", "133.34", "144.44", "-", "111.11"]
    perfect["thresholds"]["90"]["test_error"] = None
    cells = rows(printed(RESULTS | {"scores": {"margin": perfect}}), "Thresholds")
    assert cells[2][-1] == "-"


def at_threshold(shift):
    return {
        "coverage": 0.9012 - shift,
        "error": 0.0123 + shift,
        "accuracy": 0.8765 - shift,
        "confidence": 0.7 - shift,
    }


SHIFTS = {
    "score": "margin",
    "threshold": 0.48,
    "threshold_from": "certificate",
    "examples": 10000,
    "clean": at_threshold(0),
    "shifts": {
        "noise": [
            {"severity": 1, **at_threshold(0.1)},
            {"severity": 5, **at_threshold(0.2), "coverage": 0.0, "error": None},
        ]
    },
    "ood": {
        "cifar10": {"examples": 1234, "accepted": 0.0456, "auroc": 0.9876, "fitted": "as grey"},
        "mnist": {"examples": 60, "accepted": 0.5, "auroc": 0.25, "fitted": ""},
    },
}


def test_shifts_are_listed_below_the_unchanged_images(capsys):
    console.show_shift(SHIFTS, "runs/digits")
    lines = capsys.readouterr().out.splitlines()
    title = "runs/digits: 10,000 test images, accepted if margin >= 0.48"
    assert rows(lines, title) == [
        [
            "shift",
            "severity",
            "coverage %",
            "selective risk %",
            "accuracy %",
            "mean confidence",
        ],
        ["none", "-", "90.12", "1.23", "87.65", "0.7000"],
        ["noise", "1", "80.12", "11.23", "77.65", "0.6000"],
        ["noise", "5", "0.00", "-", "67.65", "0.5000"],
    ]
    assert "threshold from: certificate" in lines
    assert rows(lines, "Other data") == [
        ["data set", "images", "accepted %", "AUROC %", "conversion"],
        ["cifar10", "1,234", "4.56", "98.76", "as grey"],
        ["mnist", "60", "50.00", "25.00", "none"],
    ]


def test_without_other_data_sets_their_table_is_left_out(capsys):
    console.show_shift(SHIFTS | {"ood": {}}, "runs/digits")
    assert "Other data" not in capsys.readouterr().out


def test_several_students_have_one_line_each(capsys):
    many = {name: {**RESULTS, **network(shift)} for name, shift in (("kd", 0.0), ("ka", 0.05))}
    console.show_many(many, "a run")
    printed = capsys.readouterr().out.splitlines()
    assert "certify at delta / S" in " ".join(printed) and max(map(len, printed)) <= 100
    best = RESULTS["scores"][RESULTS["best_score"]]
    risks = [f"{100 * best['error_at_coverage'][c]:.2f}" for c in ("90", "80")]
    cells = rows(printed, "a run")[1:]
    assert [row[0] for row in cells] == list(many)
    for row, accuracy in zip(cells, ("90.12", "95.12"), strict=True):
        areas = [f"{1000 * best[key]:.2f}" for key in ("dev_aurc", "aurc")]
        assert row[1:] == [areas[0], accuracy, RESULTS["best_score"], *risks, areas[1]]


ERRORS = "Errors on the 26,032 test images, without and with abstention"


def test_errors_are_counted_without_and_with_abstention(printed):
    teacher = {**network(0.05), "guarantee": {**GUARANTEE, "risk": 0.005}}
    lines = printed(RESULTS | {"teacher": teacher})
    assert rows(lines, ERRORS) == [
        ["", "wrong, all accepted", "certified risk %", "accepted", "wrong among accepted"],
        ["teacher", "1,269 (4.9 %)", "0.5", "none", "-"],
        ["student", "2,571 (9.9 %)", "2", "19,264 (74.0 %)", "963 (5.0 %)"],
    ]
    assert (
        "student: if it must answer on all 26,032 test images, 2,571 are wrong; if it may "
        "abstain, it abstains on 6,768, and of the 19,264 that it accepts 963 are wrong (certified "
        "risk 2 %)."
    ) in " ".join(lines)


def test_without_a_certificate_no_accepted_images_are_shown(printed):
    lines = printed(RESULTS | {"guarantee": {**GUARANTEE, "risk": 0.005}})
    assert rows(lines, ERRORS)[1:] == [["student", "2,571 (9.9 %)", "0.5", "none", "-"]]
    assert "no threshold could be certified for a risk of 0.5 %." in " ".join(lines)


def test_the_best_student_is_named_also_if_it_is_another_one_on_test(capsys):
    better_on_test = score(0.1) | {"dev_aurc": 0.5, "aurc": 0.0}
    many = {
        "[red]kd": RESULTS,
        "a student with a long name, such as method=ka_gambler_sum": {
            **RESULTS,
            "scores": {"margin": better_on_test},
        },
    }
    console.show_many(many, "a run")
    printed = capsys.readouterr().out
    assert "lowest AURC on dev: [red]kd; on test: a student with a long name, such as" in printed
    names = [row[0] for row in rows(printed.splitlines(), ERRORS)[1:]]
    assert names == list(many)


CLASSES = {
    "classes": ["[red]", "Shirt", "Bag"],
    "threshold_from": "certificate",
    "true": {
        "examples": [10, 1000, 0],
        "accepted": [9, 14, 0],
        "errors": [0, 14, 0],
        "coverage": [0.9, 0.014, None],
        "risk": [0.0, 1.0, None],
    },
    "predicted": {
        "examples": [900, 100, 10],
        "accepted": [0, 0, 0],
        "errors": [0, 0, 0],
        "coverage": [0.0, 0.0, 0.0],
        "risk": [None, None, None],
    },
    "warnings": [f"sentence {number}" for number in range(6)],
}


def test_the_worst_classes_and_the_first_warnings_are_shown(printed, capsys):
    lines = printed(RESULTS | {"per_class": CLASSES})
    assert rows(lines, "Worst classes on test at the certified threshold") == [
        ["", "lowest coverage %", "highest selective risk %"],
        ["true class", "Shirt: 1.4 (14 of 1,000)", "Shirt: 100.0 (14 of 14)"],
        ["predicted class", "[red]: 0.0 (0 of 900)", "-"],
    ]
    shown = [line for line in lines if "sentence" in line]
    assert shown == [f"warning: sentence {number}" for number in range(4)]
    assert "and 2 more warnings: see the report" in lines
    uncertified = CLASSES | {"threshold_from": "dev, 90 % coverage"}
    title = "Worst classes on test at the threshold from dev, 90 % coverage"
    assert rows(printed(RESULTS | {"per_class": uncertified}), title)
    console.show_many({"kd": RESULTS | {"per_class": CLASSES}}, "a run")
    assert "warning: kd: sentence 0" in capsys.readouterr().out


def test_results_of_an_earlier_version_have_no_classes(printed):
    assert not any("classes" in line for line in printed())
