"""The model card as a page of text, `card.md`, from the fields of `card.json`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdjax import selective
from kdjax.evaluation import cost_table

FILE_NAME = "card.md"
SHOWN_CLASSES = 100  # class names on the page; card.json has all of them

_USE = """\
```sh
python -m kdjax.predict --model=FOLDER photo.png
```

```python
import kdjax.predict

model = kdjax.predict.load("FOLDER")
prediction = model(["photo.png"])
print(prediction.labels, prediction.accepted, prediction.probabilities)
```

FOLDER is the folder of this file. On newly labelled images,
`python -m kdjax.check --model=FOLDER folder:IMAGES` tests whether the promise still holds. The
model files also run without kdjax: the StableHLO file with `jax.export.deserialize`, the ONNX file
with onnxruntime.
"""


def render(model_card: Mapping[str, Any]) -> str:
    """Returns the page, in Markdown.

    Args:
        model_card: see `kdjax.export.card.FIELDS`.
    """
    sections = {
        "Promise": [promise(model_card)],
        "Figures": _figures(model_card),
        "Size and speed": _sizes(model_card.get("cost")),
        "Classes": [_classes(model_card["classes"]), *_class_rates(model_card.get("per_class"))],
        "Notes and limits": _notes(model_card),
        "Files": _table(("file", "SHA-256", "written by"), _files(model_card["files"])),
        "Use": [_USE.rstrip()],
    }
    lines = [f"# {_escape(model_card['name'])}", "", *_summary(model_card)]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def promise(model_card: Mapping[str, Any]) -> str:
    """Returns in plain words what the model promises about the images that it accepts."""
    certificate = model_card["certificate"]
    if certificate:
        return (
            f"Of the images that the model accepts, at most {_percent(certificate['risk'])} are "
            "wrong, as long as the images are of the same kind as those it was calibrated on. "
            f"This was certified on {certificate['examples']:,} calibration images by a procedure "
            f"that errs with probability at most {_percent(certificate['delta'])}."
        )
    if model_card["threshold"] is None:
        return (
            "The model abstains on every image, because no threshold could be certified. Its "
            "labels and probabilities are still given."
        )
    return "No selective risk is promised, as the threshold has no certificate."


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
        "views": _views(model_card.get("views")),
        "accepts": _rule(model_card),
        "threshold from": _source(model_card.get("operating_point")),
        "author": model_card.get("author") or "not stated",
        "license": model_card.get("license") or "not stated",
    }
    return _table(("", ""), [(name, _escape(str(value))) for name, value in rows.items()])


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
    return f"{name} >= {selective.shown_threshold(score['name'], threshold)}"


def _source(point: Mapping[str, Any] | None) -> str:
    if point is None or point["source"] == "none":
        return "-"
    requested = {**point["requested"]}
    requested.pop("score", None)
    given = ", ".join(f"{name} {value:g}" for name, value in requested.items())
    return f"{point['source']}{f' (requested at export: {given})' if given else ''}"


def _figures(model_card: Mapping[str, Any]) -> list[str]:
    test, point = model_card["test"], model_card.get("operating_point")
    lines = [
        f"Without abstention: accuracy {_percent(test['accuracy'])} on {test['examples']:,} test "
        "images."
    ]
    if point:
        columns = ("split", "images", "accepted", "coverage", "errors", "selective risk")
        rows = [
            (
                split,
                f"{values['images']:,}",
                f"{values['accepted']:,}",
                _percent(values["coverage"]),
                f"{values['errors']:,}",
                "-" if values["error"] is None else _percent(values["error"]),
            )
            for split, values in point["figures"].items()
        ]
        lines += ["", "At the threshold:", "", *_table(columns, rows), "", _SPLITS]
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


def _files(files: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, f"`{file['sha256']}`", _escape(str(file.get("written_by", "-"))))
        for name, file in files.items()
    ]


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(json.dumps(name, ensure_ascii=False) for name in names[:SHOWN_CLASSES])
    more = len(names) - SHOWN_CLASSES
    return _escape(shown) + (f" and {more:,} more, see card.json" if more > 0 else "")


def _class_rates(rates: Mapping[str, Any] | None) -> list[str]:
    """Returns the warnings about classes, and a table of the true and the predicted classes."""
    if rates is None:
        return []
    warnings = [f"- Warning: {_escape(warning)}" for warning in rates["warnings"]]
    lines = ["", *warnings] if warnings else []
    for grouping, label in (("true", "true class"), ("predicted", "predicted class")):
        values = rates[grouping]
        coverage = [1.0 if share is None else share for share in values["coverage"]]
        order = sorted(range(len(coverage)), key=coverage.__getitem__)[:SHOWN_CLASSES]
        rows = [
            (
                _escape(rates["classes"][index]),
                f"{values['examples'][index]:,}",
                *(_share(values, share, index) for share in ("coverage", "risk")),
            )
            for index in order
        ]
        lines += ["", *_table((label, "test images", "coverage", "selective risk"), rows)]
    return [*lines, "", f"In brackets: exact {_percent(rates['level'])} intervals of one class."]


def _share(rates: Mapping[str, Any], name: str, index: int) -> str:
    if rates[name][index] is None:
        return "-"
    share, low, high = (100 * rates[f"{name}{end}"][index] for end in ("", "_low", "_high"))
    return f"{share:.1f} % ({low:.1f} to {high:.1f} %)"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _escape(text: str) -> str:
    """Returns a text without line breaks, with the characters that Markdown reads escaped."""
    joined = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in joined)
