"""Sentences about a teacher."""

import pytest

from kdjax.report import teacher

ERRORS = {"examples": 5000, "wrong": 12, "adjusted": 12}
FOLDS = [
    {"examples": 2500, "in_sample_error": 0.001, "out_of_fold_error": 0.09},
    {"examples": 2500, "in_sample_error": 0.003, "out_of_fold_error": 0.08},
]
OUT_OF_FOLD = {
    "examples": 5000,
    "wrong": 425,
    "adjusted": 400,
    "in_sample_error": 0.002,
    "out_of_fold_error": 0.085,
    "folds": FOLDS,
}
MEASURED = {"mean": 0.01234, "teacher_auroc": 0.9, "student_auroc": None}
DISAGREEMENT = {"members": 2, "dev": MEASURED | {"mean": 0.02}, "test": MEASURED}


@pytest.mark.parametrize(
    ("results", "sentences"),
    [
        ({}, []),
        (
            {"correction": ERRORS},
            [
                "The teacher misclassifies 12 of 5,000 (0.24 %) of the training images, on which "
                "it was trained.",
                "The adjustment changes the teacher's distribution on 12 of 5,000 (0.24 %) of the "
                "training images.",
            ],
        ),
        (
            {"correction": OUT_OF_FOLD, "disagreement": DISAGREEMENT},
            [
                "Out of fold, 425 of 5,000 (8.50 %) of the training images are misclassified: each "
                "by the one of 2 teachers that has not seen it. In sample, on the images with "
                "which it was trained, a teacher errs on 0.20 %.",
                "The adjustment changes the teacher's distribution on 400 of 5,000 (8.00 %) of the "
                "training images.",
                "Disagreement of the 2 teachers (mutual information, in nats): 0.0200 on dev and "
                "0.0123 on test; AUROC by which it separates wrong predictions on test: 90.00 % "
                "(teacher) and - (student).",
            ],
        ),
        (  # whether it was trained on them is not known
            {"correction": ERRORS, "external_teacher": {"kind": "onnx", "file": "a.onnx"}},
            [
                "The teacher misclassifies 12 of 5,000 (0.24 %) of the training images.",
                "The adjustment changes the teacher's distribution on 12 of 5,000 (0.24 %) of the "
                "training images.",
            ],
        ),
        (  # of an earlier version
            {"correction": {"examples": 5000, "wrong": 0}},
            [
                "The teacher misclassifies 0 of 5,000 (0.00 %) of the training images, on which it "
                "was trained."
            ],
        ),
    ],
)
def test_sentences_say_what_is_known(results, sentences) -> None:
    assert teacher.sentences(results) == sentences


def test_teacher_of_several_students_is_described_once() -> None:
    students = [{}, {"correction": OUT_OF_FOLD}, {"correction": OUT_OF_FOLD}]
    (sentence,) = teacher.of_students(students)
    assert sentence.startswith("Out of fold, 425 of 5,000")


def test_table_has_a_row_for_each_fold() -> None:
    assert teacher.fold_rows(OUT_OF_FOLD) == [
        ["0", "2,500", "9.00", "0.10"],
        ["1", "2,500", "8.00", "0.30"],
    ]
    assert teacher.fold_rows(ERRORS) == []
