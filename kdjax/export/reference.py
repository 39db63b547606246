"""The comparison of an exported file with the network and the run that it came from."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kdjax.export import formats

TOLERANCE = 1e-4  # largest allowed difference of a logit from the network's


class Reference(NamedTuple):
    """Images with the outputs of the network on this machine, and the decisions of the run.

    Attributes:
        images: batches, uint8 [b, h, w, c]: all of calibration, then some of test; or some of
            random pixels.
        source: description of the images.
        outputs: of the network, in float32.
        run_accepted: whether the run accepts each calibration image, bool; empty for random
            pixels.
        from_run: largest difference of the logits from those of the run; None for random pixels.
    """

    images: Sequence[Any]
    source: str
    outputs: formats.Outputs
    run_accepted: np.ndarray
    from_run: float | None


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns max |a - b|."""
    return float(np.abs(a - b).max())


def check_file(name: str, content: bytes, reference: Reference) -> dict[str, Any]:
    """Runs an exported file and compares its outputs with the network's and the run's.

    Args:
        name: a key of `formats.FORMATS`.
        content: of the file.
        reference: images, and the outputs of the network.

    Returns:
        `largest_difference`: of a logit; `different_decisions`: the number of images that only one
        of file and network accepts, because of rounding of a confidence at the threshold;
        `calibration`: the number of `images` of the calibration split, of those that the file has
        `accepted`, and of `different_decisions` between file and run; None without the data set.

    Raises:
        FloatingPointError: if a logit differs by more than `TOLERANCE`.
    """
    run = formats.FORMATS[name].run(content)
    batches = [run(np.asarray(images)) for images in reference.images]
    outputs = formats.concatenate(batches)
    difference = largest_difference(outputs.logits, reference.outputs.logits)
    if not difference <= TOLERANCE:
        raise FloatingPointError(
            f"the logits of {name} differ by {difference:.2g} from the network's, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    run_accepted = reference.run_accepted
    accepted = outputs.accepted[: len(run_accepted)]
    calibration = {
        "images": len(run_accepted),
        "accepted": int(accepted.sum()),
        "different_decisions": int(np.sum(accepted != run_accepted)),
    }
    return {
        "largest_difference": difference,
        "different_decisions": int(np.sum(outputs.accepted != reference.outputs.accepted)),
        "calibration": calibration if len(run_accepted) else None,
    }
