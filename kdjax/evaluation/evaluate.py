"""Evaluation after training: writes the predictions of each split and `results.json`."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdjax import data
from kdjax.data import deployment_views
from kdjax.data.batches import load_split
from kdjax.data.deployment_views import IDENTITY
from kdjax.errors import InputError
from kdjax.evaluation import (
    cost,
    fallback,
    gate_features,
    network,
    per_class,
    predictions,
    promises,
    settings,
    summary,
    teacher_outputs,
)
from kdjax.evaluation import gate as gates
from kdjax.evaluation.predictions import SPLITS, Predictions
from kdjax.evaluation.teacher_outputs import TRAIN, TeacherOutputs
from kdjax.models import apply
from kdjax.runs import restore, teachers, workdir
from kdjax.runtime import atomic_io, compiler, multihost
from kdjax.training import collapse, host_teacher
from kdjax.training.external import logits_teacher
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.spec import STUDENT, TEACHER

Outputs = Mapping[str, Predictions]
Results = dict[str, Any]


def evaluate(
    folder: pathlib.Path,
    dataset: data.Dataset,
    *,
    risk: float | None = None,
    delta: float | None = None,
    teacher_predictions: TeacherOutputs | None = None,
    runs: int | None = None,
    gate: str | None = None,
    gate_acceptance: float | None = None,
    coverage: float | None = None,
) -> Results:
    """Evaluates the best checkpoint of a workdir, and of its teacher.

    Args:
        folder: the workdir of a student or of a teacher.
        dataset: of the run, see `restore.load_dataset`.
        risk: of the certificate, instead of the config's.
        delta: of the certificate, instead of the config's.
        teacher_predictions: of `predict_teacher`, if already computed.
        runs: number of students among which one may be chosen, see `certification.certify`; None:
            as in the last evaluation of the workdir, 1 in the first.
        gate: name of `outliers.GATES`, instead of the config's.
        gate_acceptance: instead of the config's.
        coverage: to be certified together with the risk, instead of the config's.

    Returns:
        The content of `results.json`: of `summary.summarize`; `views`, the name of the deployment
        views, which teacher and student have in common; `per_class`, see
        `per_class.at_operating_point`; for a method that abstains also `abstained` of each split
        and perhaps `collapse`, see `_abstention`; with a teacher also `teacher`, its results,
        `correction`, see `teacher_outputs.correction`, of several teachers `disagreement`, see
        `teacher_outputs.disagreement`, and `external_teacher`, the `kind` and `file` of a teacher
        that kdjax has not trained. If a teacher is given as logits of some splits,
        `teacher` has their accuracy metrics only; `initial_weights`, see
        `initial_weights.unknown_source`; of a teacher `selective`, the fields of the config with
        which it was evaluated; of a student `weights_sha256`, see `apply.weights_hash`;
        `promises`, see `promises.compute_all`.

    Raises:
        InputError: if there is nothing to evaluate, the data set has changed, risk or delta are
            out of range, or the gate is unknown or cannot be fitted.
    """
    config, teacher = settings.load_config(folder), teachers.folder_of(folder)
    certificate = settings.requested(config, risk=risk, delta=delta, coverage=coverage)
    if teacher and not teacher.exists():
        raise InputError(
            f"{str(teacher)!r} points to {str(teacher.readlink())!r}, which is gone: restore the "
            "teacher or fix the symlink"
        )
    compiler.set_tuned(config.cpu_tuning)
    views = settings.views_name(folder)
    request = gates.request(config, name=gate, acceptance=gate_acceptance)
    restored = network.restore_network(folder)
    gated = gate_features.gated_outputs(
        folder,
        restored,
        dataset,
        request,
        delta=certificate["delta"],
        batch_size=config.eval_batch_size,
        views=deployment_views.views(views, flip=config.data.flip),
    )
    outputs = gated.outputs
    names, groups = list(dataset.class_names), predictions.groups_to_save(folder, dataset, outputs)
    summarized = certificate | {
        "runs": settings.last_runs(folder) if runs is None else runs,
        "gate": gated.gate,
    }
    results = _summarize(folder, outputs, summarized, names) | {"views": views}
    results |= settings.recorded(folder, config)
    if workdir.read_metadata(folder)["stage"] == STUDENT:
        results["weights_sha256"] = apply.weights_hash(restored.variables)
    if teacher:
        if teacher_predictions is None:
            teacher_predictions = predict_teacher(folder, dataset)
        results |= _teacher_results(
            folder, config, teacher_predictions, certificate, names, views, groups
        )
        results["correction"] = teacher_outputs.correction(teacher_predictions, config)
        if measured := teacher_outputs.disagreement(teacher_predictions, outputs):
            results["disagreement"] = measured
    extras = promises.Extras(groups=groups)
    if teacher_predictions:
        extras = extras._replace(
            teacher=teacher_predictions.splits,
            fallback=fallback.describe(folder, teacher_predictions.weights_sha256, views),
        )
    results |= _promises(results, outputs, config, names, extras)
    if multihost.is_primary():
        cost.write_cost(folder)
        fallback.save_linked(folder, extras.teacher)
        gates.save_fitted(folder, gated.fitted)
    _write(folder, outputs, results, groups)
    return results


def evaluate_all(
    folders: Sequence[pathlib.Path], dataset: data.Dataset
) -> dict[pathlib.Path, Results]:
    """Evaluates workdirs of students with the same teacher, which is applied once.

    Their results have a second certificate that holds for all students together.
    """
    outputs: dict[str, TeacherOutputs] = {}  # by the views of the student

    def teacher_predictions(folder: pathlib.Path) -> TeacherOutputs | None:
        teacher = teachers.folder_of(folder)
        if not teacher or not teacher.exists():
            return None
        views = settings.views_name(folder)
        if views not in outputs:
            outputs[views] = predict_teacher(folder, dataset)
        return outputs[views]

    return {
        folder: evaluate(
            folder, dataset, teacher_predictions=teacher_predictions(folder), runs=len(folders)
        )
        for folder in folders
    }


def predict_teacher(folder: pathlib.Path, dataset: data.Dataset) -> TeacherOutputs:
    """Returns the outputs of a workdir's teacher, averaged over the views of the student.

    Those on train are the logits that teach, of the images alone. They are on all splits, unless
    the teacher is given as logits of some splits, which have no other views.
    """
    teacher = teachers.load(folder / "teacher", dataset)
    views = network.views_of(restore.load_config(folder))
    if isinstance(teacher, HostTeacher):
        splits = {
            split: Predictions(
                host_teacher.averaged_logits(
                    teacher, dataset, split, (IDENTITY,) if split == TRAIN else views
                ),
                np.asarray(getattr(dataset, split).labels, np.int32),
            )
            for split in teacher.splits
        }
        return TeacherOutputs(splits, {}, None)
    batch_size = restore.load_config(folder / "teacher").eval_batch_size
    # The networks of an ensemble are applied to one split after the other.
    examples_of = functools.lru_cache(maxsize=1)(functools.partial(load_split, dataset))

    def predict_rows(
        member: restore.RestoredModel, split: str, rows: np.ndarray | None
    ) -> np.ndarray:
        averaged = (IDENTITY,) if split == TRAIN else views
        return network.predict_logits(
            member, examples_of(split), batch_size=batch_size, rows=rows, views=averaged
        )

    return teacher_outputs.predict(teacher, dataset, SPLITS, predict_rows)


def predict_splits(
    folder: pathlib.Path,
    dataset: data.Dataset,
    splits: Sequence[str],
    *,
    views: str | None = None,
) -> dict[str, Predictions]:
    """Returns the outputs of a workdir's best checkpoint on some splits, averaged over views.

    Args:
        folder: the workdir of a student or of a teacher.
        dataset: of the run.
        splits: names of splits.
        views: a name of `deployment_views.NAMES`, instead of that of the run.
    """
    config = restore.load_config(folder)
    averaged = deployment_views.views(views or settings.views_name(folder), flip=config.data.flip)
    restored = network.restore_network(folder)
    return gate_features.predict_splits(
        restored, None, dataset, splits, batch_size=config.eval_batch_size, views=averaged
    )


def _teacher_results(
    student: pathlib.Path,
    config: ConfigDict,
    outputs: TeacherOutputs,
    certificate: Mapping[str, Any],
    class_names: Sequence[str],
    views: str,
    groups: Mapping[str, np.ndarray],
) -> Results:
    """Returns the results of a student's teacher for `results.json`, and writes the teacher's own.

    The teacher's own are not written if it belongs to another run.

    Args:
        student: the workdir of the student.
        config: of the student.
        outputs: of `predict_teacher`.
        certificate: requested `risk` and `delta`.
        class_names: of the data set, by label.
        views: name of the views of the student.
        groups: of `predictions.groups_to_save`.
    """
    folder = student / TEACHER
    source = teachers.external_source(folder)
    if source and source["kind"] == logits_teacher.KIND:
        views = deployment_views.NONE
    evaluated = {split: outputs.splits[split] for split in SPLITS if split in outputs.splits}
    results: Results = {}
    if len(evaluated) == len(SPLITS):
        results["teacher"] = _summarize(folder, evaluated, certificate, class_names) | {
            "views": views
        }
        # Students of one run link the teacher, which lies in the workdir of the run.
        if folder.resolve().parent in (student.resolve(), *student.resolve().parents):
            extras = promises.Extras(groups=groups)
            promised = _promises(results["teacher"], evaluated, config, class_names, extras)
            written = results["teacher"] | promised | settings.of_teacher(config)
            _write(folder, evaluated, written, groups)
    elif evaluated:
        results["teacher"] = {
            split: summary.accuracy_metrics(split_outputs.with_abstention())
            for split, split_outputs in evaluated.items()
        }
    if source:
        results["external_teacher"] = source
    return results


def _write(
    folder: pathlib.Path, outputs: Outputs, results: Results, groups: Mapping[str, np.ndarray]
) -> None:
    """Writes the predictions, and last the results, whose presence marks a complete evaluation."""
    if multihost.is_primary():
        for split, split_outputs in outputs.items():
            path = predictions.path_of(folder, split)
            predictions.save(path, split_outputs, groups.get(split))
        atomic_io.write_json(folder / "results.json", results)


def _promises(
    results: Results,
    outputs: Outputs,
    config: ConfigDict,
    class_names: Sequence[str],
    extras: promises.Extras,
) -> Results:
    """Returns `promises` of a network for `results.json`.

    Args:
        results: of `_summarize`.
        outputs: of the network on `SPLITS`.
        config: of the run.
        class_names: of the data set, by label.
        extras: what only some runs have.
    """
    if outputs["dev"].logits.shape[1] == len(class_names):
        outputs = {split: values.with_abstention() for split, values in outputs.items()}
    evidence = promises.evidence_of(
        results,
        outputs,
        class_names=class_names,
        settings=config.selective.to_dict(),
        extras=extras,
    )
    return {"promises": promises.compute_all(evidence)}


def _summarize(
    folder: pathlib.Path,
    outputs: Outputs,
    certificate: Mapping[str, Any],
    class_names: Sequence[str],
) -> Results:
    """Returns the results of a workdir's network from its outputs on `SPLITS`.

    Args:
        folder: the workdir.
        outputs: by split.
        certificate: requested `risk` and `delta`, and optionally `runs` and `gate`.
        class_names: of the data set, by label.
    """
    metadata = workdir.read_metadata(folder)
    if metadata["stage"] == TEACHER:
        outputs = {split: values.with_abstention() for split, values in outputs.items()}
    abstains = collapse.trains_abstention(metadata["stage"], metadata["config"])
    results = summary.summarize(outputs, abstains=abstains, **certificate)
    if abstains:
        results |= _abstention(results, outputs, metadata["config"])
    return results | {"per_class": per_class.per_class(results, outputs["test"], class_names)}


def _abstention(results: Results, outputs: Outputs, config: Mapping[str, Any]) -> Results:
    """Returns the metrics of the splits with `abstained`, and a warning about a collapse.

    Args:
        results: of `summary.summarize`.
        outputs: by split.
        config: nested, of the run, with a method that abstains.

    Returns:
        The splits with `abstained`, the share of images on which the abstention output is the
        largest; and `collapse`, only if that is nearly every dev image.
    """
    shares = {split: collapse.abstained_share(values.logits) for split, values in outputs.items()}
    splits = {split: results[split] | {"abstained": share} for split, share in shares.items()}
    if shares["dev"] <= collapse.LIMIT:
        return splits
    return splits | {"collapse": collapse.warning(shares["dev"], config)}
