"""Tests on newly labelled images whether an exported model keeps its promise.

kdjax check --model=model/ folder:new_pictures [--delta=0.05] [--risk=0.02] [--json]
kdjax check --model=student/ --fallback=teacher/ folder:new_pictures --risk=0.05

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
FALLBACK = cli.define_path("fallback", "a second model, which answers what the first does not")
THRESHOLD = flags.DEFINE_string(
    "threshold",
    None,
    "with --fallback: the first model answers from this score on, or all, or none [the certified "
    "one for this fallback, or what the model accepts]",
)
FALLBACK_ABSTAINS = flags.DEFINE_bool(
    "fallback_abstains", False, "the fallback abstains from what it does not accept"
)
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
    if FALLBACK.value is None:
        if THRESHOLD.value is not None:
            raise InputError(f"--threshold={THRESHOLD.value} needs --fallback")
        report = promise_check.check(MODEL.value, name, **options)
        show: Callable[[Mapping[str, Any]], None] = promise_table.show
    else:
        options |= {"threshold": THRESHOLD.value, "fallback_abstains": FALLBACK_ABSTAINS.value}
        report = cascade_check.check(MODEL.value, FALLBACK.value, name, **options)
        show = cascade_table.show
    if JSON.value:
        models = {"model": MODEL.value, "fallback": FALLBACK.value}
        given = {key: value for key, value in models.items() if value is not None}
        print(json.dumps({**given, "images": name, **report}))
    else:
        show(report)
    sys.stdout.flush()
    if report["refuted"]:
        sys.exit(REFUTED)


if __name__ == "__main__":
    cli.run(main, positional="LABELLED_IMAGES", needs=["train", "export"])
