"""How the networks of a data set and setting were trained, in words, from their result files."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.paper import plan, queue_options
from experiments.paper.table import PAYOFF_BY_DEV, Group
from experiments.paper.tables import listed, word
from kdjax.objectives import METHODS

ADJUSTMENT = "../concepts/distillation.md#knowledge-adjustment"
STRUCTURES = {
    "structure": "an AlexNet-like student, a teacher of another structure",
    "depth": "a student with the structure of its teacher and fewer layers",
}


def paragraphs(group: Group) -> list[str]:
    """Returns paragraphs: networks, what single methods have, and the errors of teachers."""
    methods = sorted({name for record in group.records for name in record["needs_teacher"]})
    ours = [name for name in methods if name in METHODS]
    configs = _configs(group, ours)
    tuned = (
        f'Of these, the payoff was chosen on dev in the rows with "{PAYOFF_BY_DEV}".'
        if group.payoffs
        else "None of these was tuned."
    )
    texts = [
        f"{_schedule(config, ours)}{_hyperparameters(config, ours)} {tuned}" for config in configs
    ]
    parts = [*_networks(group), *dict.fromkeys(texts), _teachers(group, configs)]
    return [part for part in parts if part]


def networks(group: Group) -> list[dict[str, dict[str, Any]]]:
    """Returns the different pairs of networks, as far as the files have them."""
    pairs = [record["networks"] for record in group.records if "networks" in record]
    return [pair for place, pair in enumerate(pairs) if pair not in pairs[:place]]


def shared_teacher(group: Group) -> str:
    """Returns what it means that all seeds have the teachers of the first one; else nothing."""
    if not shares_teacher(group):
        return ""
    kinds = {
        plan.IN_SAMPLE: "one in-sample teacher",
        plan.OUT_OF_FOLD: f"one set of {plan.FOLDS} out-of-fold teachers",
    }
    there = {record["job"]["teacher"] for record in group.records if record.get("teacher")}
    text = (
        f"{group.title}: all seeds share "
        f"{' and '.join(name for kind, name in kinds.items() if kind in there)}; neither standard "
        "deviations nor intervals contain the choice of the teacher"
    )
    if len(there) > 1:
        text += "; in-sample against out-of-fold is one teacher against one set"
    return f"{text}."


def shares_teacher(group: Group) -> bool:
    """Returns whether there are several seeds, and all have the teachers of the same one."""
    if len(group.seeds) == 1:
        return False
    first_seeds: dict[str, set[int | None]] = {}
    for record in (*group.records, *group.payoff_records):
        options = queue_options.parse(record["command"])
        if record.get("teacher") and options:
            shared = options.seeds[0] if options.share_teacher else None
            first_seeds.setdefault(record["job"]["teacher"], set()).add(shared)
    one_each = all(len(seeds) == 1 and None not in seeds for seeds in first_seeds.values())
    return bool(first_seeds) and one_each


def _configs(group: Group, methods: Sequence[str]) -> list[ConfigDict]:
    """Returns the config of each command, with all our methods as students of one job."""
    commands = dict.fromkeys(record["command"] for record in group.records)
    job = plan.Job(group.data, group.setting, plan.IN_SAMPLE, 0)
    return [
        plan.config(job, options.budget, methods, plan.parse_changes(options.changes))
        for options in map(queue_options.parse, commands)
        if options is not None
    ]


def _networks(group: Group) -> list[str]:
    sentences = (
        "; ".join(
            f"{stage} `{network['model']}`, {network['epochs']} epochs"
            for stage, network in pair.items()
        )
        for pair in networks(group)
    )
    return [f"{text[0].upper()}{text[1:]}." for text in sentences]


def _schedule(config: ConfigDict, methods: Sequence[str]) -> str:
    """Returns which methods begin without their loss, and for how many epochs; or nothing."""
    epochs = config.student.epochs
    pretraining = {
        student["objective.method"]: student["objective.pretrain_epochs"]
        for student in config.students
        if student.get("objective.pretrain_epochs")
    }
    if not pretraining:
        return ""
    (first, *_) = pretraining.values()
    text = (
        "Plain cross-entropy without a teacher comes first, for "
        f"{first} of the {epochs} epochs of a student, in {listed(pretraining)}"
    )
    taught = [name for name in methods if METHODS[name].needs_teacher]
    late = [name for name in taught if name in pretraining]
    whole = [name for name in taught if name not in pretraining]
    if late:
        text += f"; the epochs with the teacher are {epochs - first} in {listed(late)}"
        text += f", {epochs} in {listed(whole)}" if whole else ""
    return f"{text}. "


def _hyperparameters(config: ConfigDict, methods: Sequence[str]) -> str:
    """Returns temperature, payoff and weight."""
    objective = config.objective
    temperatures = {
        student["objective.method"]: student["objective.temperature"]
        for student in config.students
        if "objective.temperature" in student
    }
    if "reservation_distillation" in methods:
        temperatures["reservation_distillation"] = 1.0  # whatever the config says
    other = "".join(f", that of `{name}` {value:g}" for name, value in temperatures.items())
    return (
        f"The temperature is {objective.temperature:g}{other}; the payoff of the gambler loss "
        f"{objective.payoff:g}, the weight of the teacher's loss {objective.distill_weight:g}."
    )


def _teachers(group: Group, configs: Sequence[ConfigDict]) -> str:
    """Returns how often the teachers are wrong on the training images, in words."""
    shares = []
    for kind in plan.TEACHERS:
        corrections = [
            record["teacher"]["correction"]
            for record in group.records
            if record.get("teacher") and record["job"]["teacher"] == kind
        ]
        if corrections:
            shares.append(f"The {word(kind)} teacher is wrong on {_wrong(corrections):.2f} %")
    if not shares:
        return ""
    views = {config.teacher.views for config in configs}
    number = f"{views.pop()} " if len(views) == 1 and 0 not in views else ""
    return (
        f"{' of the training images that it teaches. '.join(shares)} of the training images that "
        f"it teaches. The [adjustment]({ADJUSTMENT}), a swap of two probabilities, changes a "
        "teacher's distribution where it is wrong and nowhere else. Both are counted on images "
        f"without augmentation; students learn from {number}augmented views of each image, and "
        "each view is adjusted by itself."
    )


def _wrong(corrections: Sequence[Mapping[str, Any]]) -> float:
    """Returns in how many of 100 images the teachers are wrong."""
    wrong = sum(each["wrong"] for each in corrections)
    return 100 * wrong / sum(each["examples"] for each in corrections)
