"""Synthetic workdirs: all files of a finished run, from random logits."""

import json
import math

import numpy as np

from kdjax import config as configs
from kdjax.data import Split
from kdjax.evaluation import predictions, promises, summary
from kdjax.evaluation.predictions import Predictions

CLASSES = ("<b>&amp", "T-shirt", "$x_1$", "ankle boot")
SPLITS = {"dev": 120, "calibration": 300, "test": 200}


def split(n, seed, *, classes=4, boost=4.0):
    """Returns predictions that are mostly correct, and less confident where they are wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes + 1))
    logits[np.arange(n), labels] += rng.exponential(boost, size=n)
    logits[:, -1] -= logits[:, :-1].max(axis=1)
    return Predictions(logits.astype(np.float32), labels.astype(np.int32))


def all_correct(n, seed, **options):
    predicted = split(n, seed, **options)
    return predicted._replace(labels=predicted.logits[:, :-1].argmax(axis=1).astype(np.int32))


def all_wrong(n, seed, **options):
    predicted = all_correct(n, seed, **options)
    return predicted._replace(labels=(predicted.labels + 1) % (predicted.logits.shape[1] - 1))


def all_tied(n, seed, **options):
    predicted = split(n, seed, **options)
    return predicted._replace(logits=np.zeros_like(predicted.logits))


def one_class(n, seed, **options):
    predicted = split(n, seed, **options)
    return predicted._replace(labels=np.zeros_like(predicted.labels))


def images(n, shape=(6, 5, 1)):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def metadata(stage="student", *, name="fashions", seed=0, classes=CLASSES):
    config = configs.resolve(configs.base()).to_dict()
    config["seed"] = seed
    dataset = {
        "name": name,
        "version": "1.0.0",
        "class_names": list(classes),
        "image_shape": [6, 5, 1],
        "train_examples": 1280,
        "mean": [0.5],
        "std": [0.5],
    }
    return {"stage": stage, "config": config, "dataset": dataset}


def history(epochs=3):
    lines = []
    for step in range(10, 10 * epochs + 1, 10):
        train = {"step": step, "split": "train", "loss": 3 / step, "accuracy": 1 - 3 / step}
        lines.append({**train, "learning_rate": 0.1 / step})
        lines.append({"step": step, "split": "dev", "nll": 4 / step, "accuracy": 1 - 4 / step})
    return lines


def shift(threshold=0.5):
    def at(severity):
        return {"coverage": 0.9 - severity / 10, "error": severity / 50, "accuracy": 0.8}

    nothing_accepted = {"coverage": 0.0, "error": None, "accuracy": 0.25}
    return {
        "threshold": threshold,
        "threshold_from": "certificate",
        "clean": at(0),
        "shifts": {
            "noise": [{"severity": s, **at(s)} for s in range(1, 6)],
            "blur": [
                {"severity": s, **(at(s) if s < 5 else nothing_accepted)} for s in range(1, 6)
            ],
        },
        "ood": {"<i>digits": {"examples": 1234, "accepted": 0.125, "auroc": 0.75, "fitted": ""}},
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write(folder, *, draw=split, sizes=SPLITS, risk=0.1, delta=0.05, seed=0, **fields):
    """Writes a workdir with the predictions `draw(n, seed)`; `fields` are those of `metadata`."""
    classes = len(fields.get("classes", CLASSES))
    outputs = {
        name: draw(n, seed + index, classes=classes)
        for index, (name, n) in enumerate(sizes.items())
    }
    for name, predicted in outputs.items():
        predictions.save(folder / "predictions" / f"{name}.npz", predicted)
    results = summary.summarize(outputs, abstains=True, risk=risk, delta=delta)
    test = outputs["test"]
    teacher_outputs = dict.fromkeys(SPLITS, test)
    results["teacher"] = summary.summarize(teacher_outputs, abstains=False, risk=risk, delta=delta)
    results["correction"] = summary.teacher_errors(test.logits[:, :-1], test.labels)
    write_json(folder / "results.json", results)
    write_json(folder / "config.json", metadata(seed=seed, **fields))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, history())))
    return folder


def without_guarantee(run):
    """Returns a `report.page.Run` as if it had been trained without a calibration split."""
    point = run.operating_point._replace(guarantee=None, threshold=math.inf, source="none")
    return run._replace(operating_point=point)


def gallery_split(folder, shape=(6, 5, 1)):
    """Returns random test images with the labels of the run."""
    labels = predictions.load(folder / "predictions" / "test.npz").labels
    return Split(images(len(labels), shape), labels)


def add_promises(folder, *, coverage=0.0, runs=1):
    """Adds to `results.json` of a workdir of `write` what `evaluate` writes of promises."""
    outputs = {
        name: predictions.load(predictions.path_of(folder, name))
        for name in ("dev", "calibration", "test")
    }
    results = json.loads((folder / "results.json").read_text())
    guarantee = results["guarantee"]
    requested = {name: guarantee[name] for name in ("risk", "delta")}
    results |= summary.summarize(outputs, abstains=True, **requested, coverage=coverage, runs=runs)
    names = json.loads((folder / "config.json").read_text())["dataset"]["class_names"]
    evidence = promises.evidence_of(results, outputs, class_names=names, settings={})
    results["promises"] = promises.compute_all(evidence)
    write_json(folder / "results.json", results)
    return folder
