"""Workdirs of runs that never were: all the files of a finished one, made from random logits."""

import json

import numpy as np

from kdjax import config as configs
from kdjax.data import Split
from kdjax.report import predictions, results
from kdjax.report.predictions import Predictions

CLASSES = ("<b>&amp", "T-shirt", "$x_1$", "ankle boot")
SPLITS = {"dev": 120, "calibration": 300, "test": 200}


def split(n, seed, *, classes=4, boost=4.0):
    """Logits that are right more often than not, and less confident where they are wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes + 1))
    logits[np.arange(n), labels] += rng.exponential(boost, size=n)
    logits[:, -1] -= logits[:, :-1].max(axis=1)
    return Predictions(logits.astype(np.float32), labels.astype(np.int32))


def all_right(n, seed, **options):
    found = split(n, seed, **options)
    return found._replace(labels=found.logits[:, :-1].argmax(axis=1).astype(np.int32))


def all_wrong(n, seed, **options):
    found = all_right(n, seed, **options)
    return found._replace(labels=(found.labels + 1) % (found.logits.shape[1] - 1))


def all_tied(n, seed, **options):
    found = split(n, seed, **options)
    return found._replace(logits=np.zeros_like(found.logits))


def one_class(n, seed, **options):
    found = split(n, seed, **options)
    return found._replace(labels=np.zeros_like(found.labels))


def images(n, shape=(6, 5, 1)):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def identity(stage="student", *, name="fashions", seed=0, classes=CLASSES):
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
        shown = {"step": step, "split": "train", "loss": 3 / step, "accuracy": 1 - 3 / step}
        lines.append({**shown, "learning_rate": 0.1 / step})
        lines.append({"step": step, "split": "dev", "nll": 4 / step, "accuracy": 1 - 4 / step})
    return lines


def shift():
    def at(severity):
        return {"coverage": 0.9 - severity / 10, "error": severity / 50, "accuracy": 0.8}

    nothing = {"coverage": 0.0, "error": None, "accuracy": 0.25}
    return {
        "threshold": 0.5,
        "threshold_from": "certificate",
        "clean": at(0),
        "shifts": {
            "noise": [{"severity": s, **at(s)} for s in range(1, 6)],
            "blur": [{"severity": s, **(at(s) if s < 5 else nothing)} for s in range(1, 6)],
        },
        "ood": {"<i>digits": {"examples": 1234, "accepted": 0.125, "auroc": 0.75, "fitted": ""}},
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write(folder, *, draw=split, sizes=SPLITS, risk=0.1, delta=0.05, seed=0, **named):
    """Writes a run whose logits `draw(n, seed)` gives; `named` goes to `identity`."""
    classes = len(named.get("classes", CLASSES))
    outputs = {
        name: draw(n, seed + index, classes=classes)
        for index, (name, n) in enumerate(sizes.items())
    }
    for name, found in outputs.items():
        predictions.save(folder / "predictions" / f"{name}.npz", found)
    found = results.summarize(outputs, abstains=True, risk=risk, delta=delta)
    test = outputs["test"]
    taught = dict.fromkeys(SPLITS, test)  # as sure as the student
    found["teacher"] = results.summarize(taught, abstains=False, risk=risk, delta=delta)
    found["correction"] = results.correction(test.logits[:, :-1], test.labels)
    write_json(folder / "results.json", found)
    write_json(folder / "config.json", identity(seed=seed, **named))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, history())))
    return folder


def gallery_split(folder, shape=(6, 5, 1)):
    """Random test images, with the labels that the run was tested by."""
    labels = predictions.load(folder / "predictions" / "test.npz").labels
    return Split(images(len(labels), shape), labels)
