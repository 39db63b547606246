"""Notes and warnings about an exported model: what is promised, and what to know before use."""

from collections.abc import Mapping
from typing import Any

import jax

from kdjax.evaluation import certification
from kdjax.evaluation.certification import OperatingPoint
from kdjax.evaluation.promises import words
from kdjax.export import formats, serving
from kdjax.export.reference import TOLERANCE, Reference
from kdjax.objectives import METHODS


def notes(
    config: Mapping[str, Any],
    served: serving.ExportedNetwork,
    reference: Reference,
    results: Mapping[str, Any],
) -> list[str]:
    """Returns the notes that apply to a model; those about its operating point come first.

    Args:
        config: of the run; that of a teacher has no objective.
        served: the exported network with its operating point.
        reference: with which the files are compared.
        results: of the run.
    """
    seen, from_run = certification.seen_images_note(results), reference.from_run or 0.0
    applicable = {
        _outputs_note(config, served): True,
        f"The logits differ by up to {from_run:.2g} from those that the run has saved, which were "
        "computed in bfloat16 or on other hardware: threshold, certificate and test metrics are of "
        "this model.": from_run > TOLERANCE,
        f"{formats.STABLEHLO} was written by jax {jax.__version__}. jax.export guarantees that "
        "versions up to 6 months newer and 3 weeks older, by the build date of jaxlib, can load "
        "it.": True,
    }
    first = [*_point_notes(served), *_gate_notes(served.gate), *([seen] if seen else [])]
    if "collapse" in results:
        first.append(f"The network {results['collapse']}.")
    return [*first, *(note for note, applies in applicable.items() if note and applies)]


def _outputs_note(config: Mapping[str, Any], served: serving.ExportedNetwork) -> str:
    """Returns what the logits lack; empty for a network that was trained to abstain."""
    if not served.abstains:
        return (
            "This is a teacher: its logits are those of the classes, without an abstention output. "
            "It accepts by the confidence of its classes. As --fallback of kdjax.predict it "
            "answers what a student does not."
        )
    method = config["objective"]["method"]
    if METHODS[method].abstains:
        return ""
    return (
        f"The abstention output was not trained (method {method}): only the class logits are "
        "meaningful."
    )


def _point_notes(served: serving.ExportedNetwork) -> list[str]:
    """Returns what is promised about the accepted images, and on what that is based."""
    point = served.point
    if point.guarantee is None:
        return [_no_certificate(served)]
    risk, delta = point.guarantee["risk"], point.guarantee["delta"]
    if not point.certified:
        which = "No threshold of any class" if point.class_thresholds else "No threshold"
        return [
            f"{which} could be certified at risk {risk:g} with delta {delta:g}: the model abstains "
            "on every image."
        ]
    if point.class_thresholds:
        promised = (
            "in every class with a threshold, the selective risk (error among the images that are "
            f"accepted as this class) is at most {risk:g}"
        )
    else:
        promised = f"the selective risk (error among accepted images) is at most {risk:g}"
    return [
        f"With probability {1 - delta:g} over the draw of the calibration split, {promised} on "
        "images from the distribution of the calibration split.",
        f"The certificate is based on the logits of the calibration split, {served.logits_from}. "
        f"{certification.CHOICE}",
    ]


def _gate_notes(gate: Mapping[str, Any] | None) -> list[str]:
    """Returns what the gate does; nothing without one."""
    if gate is None or gate["threshold"] is None:
        return []
    return [
        f"The gate {gate['name']} stops images unlike those of training, whatever the confidence "
        f"(output outlier). With probability {1 - gate['delta']:g}, it passes at least "
        f"{words.percent_down(gate['bound'])} of the images from the distribution of the "
        "calibration split; the promised risk is that of images that pass. How many other images "
        "it stops is not promised."
    ]


def _no_certificate(served: serving.ExportedNetwork) -> str:
    """Returns that no risk is certified, how the threshold was chosen, and what was measured."""
    figures, bound, request = served.figures["calibration"], served.bound, served.request
    chosen = "given by the user"
    if request.coverage is not None:
        chosen = f"chosen to accept {100 * request.coverage:g} % of the dev split"
    measured = (
        f"{figures['errors']:,} of {figures['accepted']:,} accepted images of calibration are wrong"
    )
    if bound:
        measured += (
            ", which bounds the selective risk of this threshold by "
            f"{words.percent_up(bound['risk'])} with probability {1 - bound['delta']:g}, if the "
            "calibration split had no part in its choice"
        )
    return (
        "This threshold has no certificate for a requested risk. It was "
        f"{chosen}. Measured: {measured}."
    )


def decision_notes(files: Mapping[str, Any]) -> list[str]:
    """Returns a note for each file that does not decide like the run on the calibration split."""
    counts = {name: file["calibration"] for name, file in files.items() if file["calibration"]}
    return [
        f"{name} and the run decide differently on {count['different_decisions']:,} of "
        f"{count['images']:,} calibration images, whose confidences are within rounding of the "
        "threshold or were computed from other logits."
        for name, count in counts.items()
        if count["different_decisions"]
    ]


def abstention_warning(point: OperatingPoint) -> str:
    """Returns one line: that the model abstains on every image, and what would help."""
    guarantee: Any = point.guarantee  # without one, a threshold accepts something
    risk, delta, examples = guarantee["risk"], guarantee["delta"], guarantee["examples"]
    needed = certification.least_examples(risk, delta)
    certified = [
        f"{entry['risk']:g}"
        for entry in guarantee["certificates"]
        if entry[certification.LTT]["threshold"] is not None
    ]
    few = (
        f", fewer than the {needed:,} that are needed without an error" if examples < needed else ""
    )
    higher = f" ({', '.join(certified)} can be certified)" if certified else ""
    if point.class_thresholds:
        return (
            "the exported model abstains on every image: no threshold of any class could be "
            f"certified at risk {risk:g} with delta {delta:g} from {examples:,} calibration images "
            f"of {len(point.class_thresholds):,} classes. Give a higher --risk or a larger --delta,"
            " export without --classwise, or train with more calibration images "
            "(data.calibration_fraction)"
        )
    return (
        "the exported model abstains on every image: no threshold could be certified at risk "
        f"{risk:g} with delta {delta:g} from {examples:,} calibration images{few}. Give a higher "
        f"--risk{higher} or a larger --delta, a --coverage such as 0.9, which certifies no risk, "
        "or train with more calibration images (data.calibration_fraction)"
    )
