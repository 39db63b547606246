"""Tests on newly labelled images whether an exported model keeps its promise.

kdjax check --model=model/ folder:new_images [--delta=0.05] [--risk=0.02] [--json]
kdjax check --model=student/ --fallback=teacher/ folder:new_images --risk=0.05

The images are given as for training: folder:PATH, csv:FILE or npz:FILE. Exit status 3 if they
refute the promise. With a fallback, the risk of all answers is bounded and certified, whichever of
the two models gives them.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from kdjax import cli

REFUTED = 3  # exit status

MODEL = cli.define_path("model", "the folder written by kdjax.export")
RISK = flags.DEFINE_float("risk", None, "the promised selective risk [that of the certificate]")
DELTA = flags.DEFINE_float("delta", 0.05, "probability that a kept promise is refuted")
SPLIT = flags.DEFINE_string("split", None, "use the images of this split only, such as test [all]")
COUNT_UNKNOWN = flags.DEFINE_bool(
    "count_unknown",
    False,
    "count accepted images of classes that the model does not have as errors",
)
STRICT = flags.DEFINE_bool("strict", False, "refuse images that cannot be read")
JSON = flags.DEFINE_bool("json", False, "print one JSON object")
CASCADE = cli.define_cascade_flags()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "images per batch")


def main(arguments: list[str]) -> None:
    """Runs the command: prints what was measured and the verdict."""
    from kdjax.errors import InputError
    from kdjax.predict import cascade_check, promise_check
    from kdjax.report import cascade_table, promise_table

    if MODEL.value is None:
        raise InputError("no model given: for example --model=model/")
    name, *others = arguments
    if others:
        raise InputError(f"unexpected argument {others[0]!r}: give one set of labelled images")
    options: dict[str, Any] = {
        "risk": RISK.value,
        "delta": DELTA.value,
        "split": SPLIT.value,
        "count_unknown": COUNT_UNKNOWN.value,
        "strict": STRICT.value,
        "batch_size": BATCH_SIZE.value,
    }
    models = {"model": MODEL.value}
    if cascade := CASCADE.options():
        models["fallback"] = cascade["fallback"]
        report = cascade_check.check(MODEL.value, images=name, **options, **cascade)
        show: Callable[[Mapping[str, Any]], None] = cascade_table.show
    else:
        report = promise_check.check(MODEL.value, name, **options)
        show = promise_table.show
    if JSON.value:
        print(json.dumps({**models, "images": name, **report}))
    else:
        show(report)
    sys.stdout.flush()
    if report["refuted"]:
        sys.exit(REFUTED)


if __name__ == "__main__":
    cli.run(main, positional="LABELLED_IMAGES", needs=["train", "export"])
