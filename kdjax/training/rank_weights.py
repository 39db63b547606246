"""Weights of the examples' losses by the rank of the teacher's confidence."""

import numpy as np

from kdjax.data import Dataset
from kdjax.data.augment import Augmentation
from kdjax.data.batches import BatchSpec, Examples
from kdjax.errors import InputError
from kdjax.selective.log_odds import softmax_response_log_odds
from kdjax.training import host_teacher
from kdjax.training.host_teacher import HostTeacher
from kdjax.training.teacher import Teacher, cached_teacher


def rank_weights(confidences: np.ndarray) -> np.ndarray:
    """Returns the weight of each example by its rank: w = -ln(1 - r / (n + 1)).

    r is the ascending rank, from 1 to n. Tied examples get the mean of the weights of their ranks:
    the expectation over random orders of the ties, as in the metrics. The AURC is the mean of the
    selective risk over all coverages, so that an error at the p-th place from the top counts
    (1/n) sum_{k=p}^n 1/k, nearly w/n with r = n + 1 - p. The weights are not normalized: their sum
    is n ln(n + 1) - ln n!, and their mean 1 - ln(2 pi n) / (2n) + 1/n up to terms in 1/n^2.

    Args:
        confidences: [n], higher is more confident; not nan.

    Returns:
        float64 [n].

    Raises:
        InputError: for a confidence that is nan.

    Source: weights in the style of the AURC losses of Zhou, Van Landeghem, Popordanoska,
    Blaschko, arXiv 2410.15361.
    """
    if np.isnan(confidences).any():
        raise InputError(f"{np.isnan(confidences).sum():,} confidences are not a number")
    count = len(confidences)
    weights = -np.log1p(-np.arange(1, count + 1) / (count + 1))
    _, ties, sizes = np.unique(confidences, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    means = np.add.reduceat(weights, ends - sizes) / sizes
    return means[ties.reshape(-1)]


def teacher_weights(
    teacher: Teacher | HostTeacher, dataset: Dataset, examples: Examples, batch_size: int
) -> np.ndarray:
    """Returns the weights of the training images by the teacher's confidence, float32 [n].

    The confidence is the softmax response in the log domain, of the image without augmentation;
    of an out-of-fold teacher, that of the network that has not seen the image.

    Args:
        teacher: the frozen teacher.
        dataset: of the students.
        examples: its train split on the devices.
        batch_size: for a teacher in JAX.

    Raises:
        InputError: as `clean_logits`.
    """
    logits = clean_logits(teacher, dataset, examples, batch_size)
    confidences = np.asarray(softmax_response_log_odds(logits, abstention=False))
    return rank_weights(confidences).astype(np.float32)


def clean_logits(
    teacher: Teacher | HostTeacher, dataset: Dataset, examples: Examples, batch_size: int
) -> np.ndarray:
    """Returns the teacher's logits of the training images without augmentation, float32 [n, m].

    They are stored beside the teacher's other cached logits.

    Args:
        teacher: the frozen teacher.
        dataset: of the students.
        examples: its train split on the devices.
        batch_size: for a teacher in JAX.

    Raises:
        InputError: if the teacher is a file of logits that has none of these images.
    """
    if isinstance(teacher, HostTeacher):
        check_clean(teacher)
        return host_teacher.split_logits(teacher, dataset, "train")
    plain = BatchSpec(
        batch_size=batch_size,
        steps_per_epoch=len(examples.labels) // batch_size,
        order_seed=0,
        augmentation=Augmentation(pad=0, flip=False),
    )
    return np.asarray(cached_teacher(teacher, dataset, examples, plain).logits[0])


def check_clean(teacher: HostTeacher) -> None:
    """Raises if a teacher outside JAX has no logits of the images without augmentation.

    Args:
        teacher: the frozen teacher.

    Raises:
        InputError: naming the field that needs them.
    """
    if teacher.clean is None:
        raise InputError(
            "objective.rank_weight_start needs the teacher's logits of the training images without "
            "augmentation, and teacher.logits has those of fixed views only: give a file without "
            "views [n, m], or leave --config.objective.rank_weight_start=1"
        )
