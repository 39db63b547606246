"""Exports a student or a teacher as files that run without kdjax, with a model card.

kdjax export --workdir=runs/digits --out=model/ [--risk=0.01] [--delta=0.05]
kdjax export --workdir=runs/digits --out=model/ --risk=0.05 --classwise
kdjax export --workdir=runs/digits --out=model/ --coverage=0.9 --score=margin
kdjax export --workdir=runs/digits --out=model/ --web=onnxruntime-web-1.30.0.tgz
kdjax export --workdir=runs/digits/teacher --out=teacher/

Of a sweep it exports the chosen setting.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from kdjax import cli

WORKDIR = cli.define_path("workdir", "the workdir of the run, or of its teacher")
OUT = cli.define_path("out", "the folder to create")
RUN_FLAGS = cli.define_run_flags()
COVERAGE = flags.DEFINE_float(
    "coverage", None, "accept this fraction of the dev split, without a certificate"
)
THRESHOLD = flags.DEFINE_float(
    "threshold", None, "accept from this confidence on, without a certificate"
)
CLASSWISE = flags.DEFINE_bool(
    "classwise",
    False,
    "certify a threshold for each predicted class, so that the risk holds within each class",
)
SCORE = flags.DEFINE_string("score", None, "the confidence score [that of the run]")
WEB = cli.define_path(
    "web",
    "also write demo.html, a page that runs the model in a browser: the folder or the archive of "
    "the npm package onnxruntime-web",
)
LICENSE = flags.DEFINE_string("license", None, "license of the model, for the card")
AUTHOR = flags.DEFINE_string("author", None, "author of the model, for the card")


def main() -> None:
    """Runs the command and prints the operating point, the files and the notes of the card."""
    from kdjax.errors import InputError
    from kdjax.export import card, card_page
    from kdjax.export.exporter import export
    from kdjax.export.web import page
    from kdjax.runs import sweeps
    from kdjax.runtime import compiler

    if WORKDIR.value is None or OUT.value is None:
        raise InputError("two flags are needed: for example --workdir=runs/digits --out=model/")
    compiler.enable_compilation_cache()
    out = pathlib.Path(OUT.value)
    model_card = export(
        sweeps.resolve(pathlib.Path(WORKDIR.value)),
        out,
        data_dir=RUN_FLAGS.data_dir.value,
        risk=RUN_FLAGS.risk.value,
        delta=RUN_FLAGS.delta.value,
        coverage=COVERAGE.value,
        threshold=THRESHOLD.value,
        score=SCORE.value,
        classwise=CLASSWISE.value,
        web=WEB.value,
        license=LICENSE.value,
        author=AUTHOR.value,
    )
    print(*_operating_point(model_card), sep="\n  ")
    for name, file in model_card["files"].items():
        size = (out / name).stat().st_size / 1e6
        difference = file["largest_difference"]
        print(
            f"{out / name}: {size:.1f} MB, logits differ by at most {difference:.1g} from the "
            f"network's on {model_card['checked']['on']}{_decisions(file['calibration'])}"
        )
    if WEB.value is not None:
        print(f"{out / page.FILE_NAME}: open it in a browser; it needs no server and no network")
    print(f"{out / card_page.FILE_NAME}: the card, to read")
    print(out / card.FILE_NAME, *model_card["notes"], sep="\n  ")


def _operating_point(model_card: Mapping[str, Any]) -> Iterator[str]:
    """Yields what determines acceptance, and then what it accepts of each split."""
    from kdjax import selective
    from kdjax.export import card_page

    point, threshold = model_card["operating_point"], model_card["threshold"]
    score = model_card["score"]["name"]
    rule = "accepts nothing"
    if threshold is not None:
        rule = f"accepts from {selective.shown_threshold(score, threshold)} on"
    if threshold is not None and model_card["class_thresholds"]:
        rule = card_page.class_rule(model_card)
    source = {"certificate": "certified", "given": "as given", "none": "none is certified"}.get(
        point["source"], point["source"]
    )
    yield f"operating point: {selective.display_name(score)} {rule} ({source})"
    for split, figures in point["figures"].items():
        error = figures["error"]
        risk = "-" if error is None else f"{100 * error:.2f} %"
        yield (
            f"{split}: coverage {100 * figures['coverage']:.2f} %, selective risk {risk} "
            f"({figures['errors']:,} wrong of {figures['accepted']:,} accepted; "
            f"{figures['images']:,} images)"
        )


def _decisions(calibration: Mapping[str, int] | None) -> str:
    """Returns on how many calibration images a file decides like the run; "" without them."""
    if calibration is None:
        return ""
    images = calibration["images"]
    same = images - calibration["different_decisions"]
    return f"; it decides like the run on {same:,} of {images:,} calibration images"


if __name__ == "__main__":
    cli.run(main, needs=["train", "export"])
