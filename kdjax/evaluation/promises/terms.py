"""What all statements have in common, in words for readers who do not know the terms."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdjax.evaluation.promises import words

READING = (
    "The model accepts an image if its confidence, a score for how sure it is, reaches the "
    "threshold, and then gives its class. On all other images it abstains: it does not commit "
    "itself.",
    "A promise is about new images. It was computed from the calibration images: labelled images "
    "that were used for nothing else. The test images are other labelled images; what is said "
    "about them is a measurement, to compare with.",
    "A limit such as 'at most 5 %' is meant in the long run: of 1,000 accepted images, by chance a "
    "few more than 50 may be wrong.",
    "'Holds alone' below a statement: its probability counts if you rely on this statement only, "
    "with a limit and a model that were fixed before a look at the numbers. 'Hold together': it "
    "counts for all these parts at once, so that you may choose among them after a look.",
)
FOR_WHICH = (
    "For new images that come from the same source as the calibration images: taken with the same "
    "kind of camera, at the same kind of place, of the same classes, chosen in the same way and "
    "independently of each other.",
)
_DIFFERENT = (
    "If the new images differ from the calibration images, such as by another camera, worse "
    "lighting or a class that the model does not know: then nothing is promised. Use kdjax check "
    "to test the promise once on newly labelled images, and kdjax monitor to monitor the "
    "predictions of the deployed model, with or without labels.",
    "If the calibration images were used for something else as well, such as training or the "
    "choice of a model, or if their labels are wrong.",
    "If more confident answers are not more reliable: the promises about errors assume that "
    "accepting more images does not lower the share of errors among them; those about classes or "
    "groups assume it within each class or group.",
    "If a limit or a model was chosen after a look at the numbers. Only parts that hold together "
    "may be chosen so.",
)
NOT_PROMISED = (
    "That a single answer is right: a promise is about the share among many images.",
    "Anything about one class or one group of images, unless a statement says so: the errors may "
    "all be in one class.",
    "Anything about images of another kind. The model may accept an image that shows none of its "
    "classes.",
    "That all statements hold at once: each has its own probability. What holds together is said "
    "with each statement.",
)


def how_it_can_fail(promises: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns how a promise can fail, in sentences.

    Args:
        promises: of `results.json` or of a model card.
    """
    deltas = {values["delta"] for values in promises.values() if "delta" in values}
    return (*(_by_chance(delta) for delta in sorted(deltas)), *_DIFFERENT)


def _by_chance(delta: float) -> str:
    sure, fails = words.exact_percent(1 - delta), words.in_hundred(delta)
    return (
        "By chance: the calibration images are a random choice, and may have been easier than new "
        f"ones. A probability of at least {sure} means that at most {fails} choices of calibration "
        "images lead to a false promise. Whether this one does cannot be seen."
    )


def before() -> dict[str, Sequence[str]]:
    """Returns what is said above the statements, by heading."""
    return {"For which images": FOR_WHICH, "What is not promised": NOT_PROMISED}


def after(promises: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Returns what is said below the statements, by heading.

    Args:
        promises: of `results.json` or of a model card.
    """
    return {"How a promise can fail": how_it_can_fail(promises)}
