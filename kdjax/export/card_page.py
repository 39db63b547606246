"""The model card as a page of text, `card.md`, from the fields of `card.json`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdjax import selective
from kdjax.data.fit import STRETCH
from kdjax.evaluation import cost_table, promises
from kdjax.evaluation.promises import terms, words
from kdjax.evaluation.promises.groupwise import shortened
from kdjax.export import formats

FILE_NAME = "card.md"
SHOWN_CLASSES = 100  # class names on the page; card.json has all of them

# Values of `fit`, in words.
_RESIZED = {
    "pad": "all of the image, its proportions kept, with black borders",
    "crop": "its proportions kept, the longer side cut off on both ends",
    STRETCH: "all of the image, which changes its proportions",
}
_USE = """\
```sh
kdjax predict --model=FOLDER photo.png
```

```python
import kdjax.predict

model = kdjax.predict.load("FOLDER")
prediction = model(["photo.png"])
print(prediction.labels, prediction.accepted, prediction.probabilities)
```

FOLDER is the folder of this file. On newly labelled images,
`kdjax check --model=FOLDER folder:IMAGES` tests whether the promise still holds;
`kdjax monitor --model=FOLDER predictions.csv` monitors the deployed model.
"""
_RUNTIMES = {
    formats.STABLEHLO: "the StableHLO file with `jax.export.deserialize`",
    formats.ONNX: "the ONNX file with onnxruntime",
}


def render(model_card: Mapping[str, Any]) -> str:
    """Returns the page, in Markdown.

    Args:
        model_card: see `kdjax.export.card.FIELDS`.
    """
    sections = {
        "Promise": [promise(model_card)],
        **_promised(model_card),
        "Figures": _figures(model_card),
        "Size and speed": _sizes(model_card.get("cost")),
        "Classes": [_classes(model_card["classes"]), *_class_rates(model_card)],
        "Notes and limits": _notes(model_card),
        "Files": _table(("file", "SHA-256", "written by"), _files(model_card["files"])),
        "Use": [_USE, _alone(model_card["files"])],
    }
    lines = [f"# {_escape(model_card['name'])}", "", *_summary(model_card)]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def promise(model_card: Mapping[str, Any]) -> str:
    """Returns in plain words what the model promises about the images that it accepts."""
    certificate = model_card["certificate"]
    if certificate and model_card.get("class_thresholds"):
        return _class_promise(model_card)
    if certificate:
        return (
            f"Of the images that the model accepts, at most {words.limit(certificate['risk'])} are "
            f"wrong{_least(certificate)}, as long as the images are of the same kind as those it "
            "was calibrated on. "
            f"This was certified on {certificate['examples']:,} calibration images"
            f"{' that pass its gate' if model_card.get('gate') else ''} by a procedure "
            f"that errs with probability at most {words.exact_percent(certificate['delta'])}."
        )
    if model_card["threshold"] is None:
        return (
            "The model abstains on every image, because no threshold could be certified. Its "
            "labels and probabilities are still given."
        )
    return "The threshold has no certificate for a requested risk."


def _least(certificate: Mapping[str, Any]) -> str:
    if "least_coverage" not in certificate:
        return ""
    least = words.percent_down(certificate["least_coverage"])
    return f", and at least {least} of all images are accepted"


def _promised(model_card: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns all statements as a section; empty for a card of an earlier version."""
    statements = promises.statements(model_card)
    if not statements:
        return {}
    lines = [_escape(" ".join(terms.READING)), *_lists(terms.before())]
    for statement in statements:
        lines += ["", f"### {_escape(statement.title)}", ""]
        lines += [_escape(" ".join(statement.sentences))]
        if statement.table:
            rows = [[_escape(cell) for cell in row] for row in statement.table.rows]
            lines += ["", *_table([*map(_escape, statement.table.columns)], rows)]
        lines += ["", f"{_escape(statement.scope[0].upper() + statement.scope[1:])}."]
    lines += _lists(terms.after(model_card["promises"]))
    return {"What is promised": lines}


def _lists(sections: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns a list of sentences below each heading."""
    lines = []
    for heading, sentences in sections.items():
        lines += ["", f"### {heading}", "", *(f"- {_escape(each)}" for each in sentences)]
    return lines


def _class_promise(model_card: Mapping[str, Any]) -> str:
    certificate, classes = model_card["certificate"], model_card["classes"]
    certified, others = _by_threshold(model_card)
    which = f"{len(certified):,} of the {len(classes):,} classes" if others else "each class"
    nothing = ""
    if others:
        nothing = f"It accepts no image as {shortened(others, 'classes')}, because no threshold "
        nothing += "could be certified there. "
    return (
        f"Of the images that the model accepts as one class, at most "
        f"{words.limit(certificate['risk'])} are wrong, for {which}, as long as the images are of "
        f"the same kind as those it was calibrated on. {nothing}"
        f"This was certified on {certificate['examples']:,} calibration images, for all classes "
        "together, by a procedure that errs with probability at most "
        f"{words.exact_percent(certificate['delta'])}."
    )


def class_rule(model_card: Mapping[str, Any]) -> str:
    """Returns in words from which confidence on a model with thresholds of its classes accepts."""
    score = model_card["score"]["name"]
    others = _by_threshold(model_card)[1]
    known = [value for value in model_card["class_thresholds"] if value is not None]
    ends = [selective.shown_threshold(score, end) for end in (min(known), max(known))]
    nothing = f"; nothing as {shortened(others, 'classes')}" if others else ""
    return f"accepts from the threshold of the predicted class on, {ends[0]} to {ends[1]}{nothing}"


def _by_threshold(model_card: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns the names of the classes with a threshold, and of those without."""
    pairs = list(zip(model_card["classes"], model_card["class_thresholds"], strict=True))
    certified = [name for name, threshold in pairs if threshold is not None]
    return certified, [name for name, threshold in pairs if threshold is None]


def _sizes(cost: Mapping[str, Any] | None) -> list[str]:
    networks = cost_table.networks_of({"student": cost})
    if not cost or not networks:
        return ["Not measured."]
    rows = [[_escape(cell) for cell in row] for row in cost_table.rows(networks)]
    return [*_table(cost_table.COLUMNS, rows), "", _escape(cost_table.note(cost["machine"]))]


def _summary(model_card: Mapping[str, Any]) -> list[str]:
    shape, data = model_card["input"]["shape"], model_card["data"]
    rows = {
        "what it is": "an image classifier that abstains when it is unsure, trained with kdjax "
        f"{model_card['kdjax']}",
        "data": f"{data['name']} {data['version']}".strip(),
        "classes": f"{len(model_card['classes']):,}",
        "input": f"uint8 [n, {', '.join(map(str, shape))}]; preprocessing is inside the model",
        "images of another size": _resized(model_card["input"]),
        "views": _views(model_card.get("views")),
        "accepts": _rule(model_card),
        **({"gate": _gate(model_card["gate"])} if model_card.get("gate") else {}),
        "threshold from": _source(model_card.get("operating_point")),
        "author": model_card.get("author") or "not stated",
        "license": model_card.get("license") or "not stated",
    }
    return _table(("", ""), [(name, _escape(str(value))) for name, value in rows.items()])


def _resized(model_input: Mapping[str, Any]) -> str:
    height, width, _ = model_input["shape"]
    return (
        f"kdjax predict resizes them to {width}x{height} pixels (width x height) before the model: "
        f"{_RESIZED[model_input.get('fit', STRETCH)]}"
    )


def _views(views: Mapping[str, Any] | None) -> str:
    if not views or views["number"] == 1:
        return "the image alone"
    return f"{views['name']}, {views['number']}: {views['meaning']}"


def _rule(model_card: Mapping[str, Any]) -> str:
    score, threshold = model_card["score"], model_card["threshold"]
    name = selective.display_name(score["name"])
    if score["name"] == "max_logit_pnorm":
        name += f" (p = {score['pnorm']:g})"
    if threshold is None:
        return "nothing"
    if model_card.get("class_thresholds"):
        return f"{name}: {class_rule(model_card)}"
    return f"{name} >= {selective.shown_threshold(score['name'], threshold)}"


def _gate(gate: Mapping[str, Any]) -> str:
    if gate["threshold"] is None:
        return f"{gate['name']}, stops no image"
    return (
        f"{gate['name']}: images unlike those of training are stopped; at least "
        f"{words.percent_down(gate['bound'])} of images like those pass"
    )


def _source(point: Mapping[str, Any] | None) -> str:
    if point is None or point["source"] == "none":
        return "-"
    requested = {**point["requested"]}
    requested.pop("score", None)
    given = ", ".join(
        name if value is True else f"{name} {value:g}" for name, value in requested.items()
    )
    return f"{point['source']}{f' (requested at export: {given})' if given else ''}"


def _figures(model_card: Mapping[str, Any]) -> list[str]:
    test, point = model_card["test"], model_card.get("operating_point")
    lines = [
        f"Without abstention: accuracy {words.measured(test['accuracy'])} on "
        f"{test['examples']:,} test images."
    ]
    if point:
        columns = ("split", "images", "accepted", "coverage", "errors", "selective risk")
        rows = [
            (
                split,
                f"{values['images']:,}",
                f"{values['accepted']:,}",
                words.measured(values["coverage"]),
                f"{values['errors']:,}",
                "-" if values["error"] is None else words.measured(values["error"]),
            )
            for split, values in point["figures"].items()
        ]
        at = "thresholds of the classes" if model_card.get("class_thresholds") else "threshold"
        lines += ["", f"At the {at}:", "", *_table(columns, rows), "", _SPLITS]
    return lines


_SPLITS = (
    "Coverage is the share of accepted images, selective risk the share of errors among them. "
    "Choices are made on dev, certificates come from calibration, test is used for no choice."
)


def _notes(model_card: Mapping[str, Any]) -> list[str]:
    general = (
        "Nothing is known about images of another kind: other cameras, other lighting, other "
        "classes. The model may accept an image of a class that it does not have.",
        "A confidence is a score for comparison with the threshold, not a probability of being "
        "right.",
    )
    return [f"- {_escape(note)}" for note in (*model_card["notes"], *general)]


def _alone(files: Mapping[str, Any]) -> str:
    """Returns with what the files of a model run without kdjax."""
    known = [how for name, how in _RUNTIMES.items() if name in files]
    return f"The model also runs without kdjax: {', '.join(known)}."


def _files(files: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, f"`{file['sha256']}`", _escape(str(file.get("written_by", "-"))))
        for name, file in files.items()
    ]


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(json.dumps(name, ensure_ascii=False) for name in names[:SHOWN_CLASSES])
    more = len(names) - SHOWN_CLASSES
    return _escape(shown) + (f" and {more:,} more, see card.json" if more > 0 else "")


def _class_rates(model_card: Mapping[str, Any]) -> list[str]:
    """Returns the warnings about classes, and a table of the true and the predicted classes."""
    rates, thresholds = model_card.get("per_class"), model_card.get("class_thresholds")
    if rates is None:
        return []
    score = model_card["score"]
    warnings = [f"- Warning: {_escape(warning)}" for warning in rates["warnings"]]
    lines = ["", *warnings] if warnings else []
    for grouping, label in (("true", "true class"), ("predicted", "predicted class")):
        values = rates[grouping]
        coverage = [1.0 if share is None else share for share in values["coverage"]]
        order = sorted(range(len(coverage)), key=coverage.__getitem__)[:SHOWN_CLASSES]
        class_thresholds = thresholds if grouping == "predicted" else None
        rows = [
            (
                _escape(rates["classes"][index]),
                *([_threshold(score["name"], class_thresholds[index])] if class_thresholds else []),
                f"{values['examples'][index]:,}",
                *(_share(values, share, index) for share in ("coverage", "risk")),
            )
            for index in order
        ]
        heading = (label, *(["threshold"] if class_thresholds else []), *_RATES)
        lines += ["", *_table(heading, rows)]
    level = words.exact_percent(rates["level"])
    return [*lines, "", f"In brackets: exact {level} intervals of one class."]


_RATES = ("test images", "coverage", "selective risk")


def _threshold(score: str, threshold: float | None) -> str:
    return "none" if threshold is None else selective.shown_threshold(score, threshold)


def _share(rates: Mapping[str, Any], name: str, index: int) -> str:
    if rates[name][index] is None:
        return "-"
    share, low, high = (100 * rates[f"{name}{end}"][index] for end in ("", "_low", "_high"))
    return f"{share:.1f} % ({low:.1f} to {high:.1f} %)"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _escape(text: str) -> str:
    """Returns a text without line breaks, with the characters that Markdown reads escaped."""
    joined = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in joined)
