"""The configuration: every field with its default, derived values, and the allowed ranges.

The files in `configs/` start from `base()`. `resolve` derives the open fields and checks all of
them before anything is loaded, compiled or written.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from kdjax import config_checks, config_fields, field_types
from kdjax.data.own.names import absolute
from kdjax.errors import InputError
from kdjax.models import user_class
from kdjax.objectives import Hyperparameters

# (setting, size) -> (teacher, student). The two settings are those of Xu, Pu, Zhao, ICPR 2020:
# across structures and across depths. The assignment of the networks is our reading of the
# abstract.
PAIRS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("structure", "paper"): ("resnet18", "alexnet"),
    ("depth", "paper"): ("resnet50", "resnet18"),
    ("structure", "laptop"): ("resnet14", "alexnet_small"),
    ("depth", "laptop"): ("resnet14", "resnet8"),
}
# The default of 0.1 is the usual value for networks with batch norm. alexnet has no batch norm and
# needs a smaller one: our choice, not tuned on a development split.
LEARNING_RATES = {"alexnet": 0.03}
DEFAULT_LEARNING_RATE = 0.1
# Metrics that select the best checkpoint on the development split: +1 if higher is better.
BEST_METRICS: Mapping[str, int] = {"accuracy": 1, "nll": -1, "aurc": -1}
# Texts with values separated by commas, which may be given as a tuple or a list.
_LISTS = ("teacher.workdir", "teacher.class_names", "teacher.input_mean", "teacher.input_std")


def base() -> ConfigDict:
    """Returns the config from which every file in `configs/` starts: all fields, documented.

    It accepts values of any type, such as 2.0 for an integer: `resolve` converts or refuses them.
    """
    config = ConfigDict(type_safe=False)
    config.name = "run"  # any name; the default workdir is runs/<name>
    # Integer seed of the initial weights, and of the order and augmentation of the images unless
    # order_seed is set; from 0 to 2^32 - 1. It does not affect the data splits.
    config.seed = 0
    # Integer seed of the order and augmentation of the images, from 0 to 2^32 - 1; -1: use seed.
    config.order_seed = -1
    # structure | depth: teacher and student differ in architecture or in depth, see PAIRS.
    config.setting = "structure"
    config.size = "paper"  # paper | laptop: full-size or small networks, see PAIRS
    # Whether to use the compiler and allocator options for CPUs of kdjax.runtime.compiler; false:
    # the defaults of XLA and libc.
    config.cpu_tuning = True
    # Whether to train for a few steps on a few images, to test that this config runs.
    config.smoke = False
    # accuracy | nll | aurc: the metric on dev that selects the best checkpoint.
    config.best_metric = "accuracy"
    # Steps between lines of metrics.jsonl and between checks that the loss is finite, >= 1.
    config.log_every = 50
    # Where metrics are written beside metrics.jsonl: keys of METRIC_WRITERS in
    # kdjax.training.metric_writer (tensorboard, wandb, mlflow); on the command line separated by
    # commas. One that fails is a warning.
    config.metric_writers = ("tensorboard",)
    config.eval_batch_size = 256  # images per batch in evaluation, >= 1

    config.data = _data()
    config.objective = _objective()
    config.selective = _selective()
    config.teacher = _teacher()
    config.student = _student()
    # Changes of fields for each of several students of one teacher, trained together, such as
    # ({"objective.method": "kd"}, {"objective.payoff": 1.8, "seed": 1}); empty: one student.
    config.students = ()
    return config


def _data() -> ConfigDict:
    """Returns the fields of the data set, its splits and its augmentation."""
    data = ConfigDict(type_safe=False)
    # folder:PATH, csv:FILE or npz:FILE with own images; or digits, digits_noisy (some cannot be
    # read), or an image-classification data set of TFDS.
    data.name = "digits"
    # The TFDS directory; empty: TFDS_DATA_DIR, or ~/tensorflow_datasets. For own images, the folder
    # of their cache; empty: the user's cache folder.
    data.dir = ""
    # Height and width to which own images are resized, from 0 to 4096; 0: their own size, which
    # must be the same.
    data.image_size = 0
    # pad | crop: how own images of other proportions are resized, with black borders or by cutting
    # off both ends of the longer side. Training, export and prediction do the same.
    data.fit = "pad"
    # Whether own images that cannot be read are refused instead of listed and left out.
    data.strict = False
    # The TFDS split from which train, dev and calibration are cut; + joins several. SVHN with its
    # extra images: train+extra.
    data.train_split = "train"
    data.test_split = "test"  # the TFDS split used as test; + joins several
    # Fraction of own images that is cut as test if they have no test split, in (0, 1).
    data.test_fraction = 0.2
    # Fraction of train_split, or of own images outside test, used as dev, on which all choices are
    # made; in (0, 1).
    data.dev_fraction = 0.1
    # Fraction of the same used as the calibration split, only for certificates; in (0, 1).
    data.calibration_fraction = 0.1
    # Integer seed of all cuts, from 0 to 2^32 - 1, the same for the teacher and all students.
    data.split_seed = 0
    # Number of images used of each split, drawn at random with split_seed, >= 0; 0: all.
    data.limit = 0
    # resident: all images in memory | stream: images of train, dev and calibration are read from
    # disk when needed. Both give the same batches.
    data.pipeline = "resident"
    # replicated: each device holds all resident images | sharded: each device holds an equal part
    # | auto: replicated up to kdjax.runtime.sharding.MAX_REPLICATED_BYTES, sharded above.
    data.placement = "auto"
    # Pixels of zero padding on each side before the random crop, >= 0; 4 is usual for 32x32
    # images, e.g. in the code of arXiv 1907.00208.
    data.pad = 4
    # Whether to mirror each image left to right with probability 1/2.
    data.flip = True
    return data


def _objective() -> ConfigDict:
    """Returns the fields of the loss of the student."""
    objective = ConfigDict(type_safe=False)
    # A key of kdjax.objectives.METHODS. ka_gambler_sum was better than ka_gambler_soft on the dev
    # split of Fashion-MNIST, measured with an earlier version: experiments/results/sum_or_soft.md.
    objective.method = "ka_gambler_sum"
    # Payoff o of the gambler losses, > 1; from the number of classes on, abstaining never lowers
    # the loss. 2.2 is the value for CIFAR-10 in the code of arXiv 1907.00208.
    objective.payoff = 2.2
    # Weight lambda of the distillation term in methods with a second term, >= 0. Our choice.
    objective.distill_weight = 1.0
    # Distillation temperature T, > 0; 4 is usual, e.g. arXiv 1910.10699.
    objective.temperature = 4.0
    # probability_shift | label_smooth_regularization | none: how the label corrects the teacher
    # where it is wrong; arXiv 1911.07471.
    objective.adjustment = "probability_shift"
    # Smoothing of label_smooth_regularization, in [0, 1 - 1/classes); 0.1 is the value of two
    # public implementations of arXiv 1911.07471.
    objective.epsilon = 0.1
    # Epochs of cross-entropy training before the method, from 0 to student.epochs; prevents
    # abstention on all images at low payoffs, arXiv 1907.00208.
    objective.pretrain_epochs = 0
    return objective


def _selective() -> ConfigDict:
    """Returns the fields of the certificate."""
    selective = ConfigDict(type_safe=False)
    # Selective risk (error among accepted images) that the certificate guarantees, in (0, 1).
    selective.risk = 0.02
    # Probability that the certificate does not hold, in (0, 1).
    selective.delta = 0.05
    return selective


def _teacher() -> ConfigDict:
    """Returns the fields of the teacher: its stage, and one that is given."""
    teacher = _stage()
    # Workdir of a trained teacher; empty: train a teacher in <workdir>/teacher. Several, separated
    # by commas or in a tuple: the mean of their log-probabilities teaches.
    teacher.workdir = ""
    teacher.onnx = ""  # an ONNX file that is the teacher; it is not trained
    # Name of the output of teacher.onnx that holds the logits or probabilities; empty: `logits`, or
    # the only output that can be meant.
    teacher.onnx_output = ""
    # An .npz file with the teacher's logits [n, m] or [views, n, m] and the index of the images,
    # see `python -m kdjax.logits`.
    teacher.logits = ""
    # A safetensors file with the weights of teacher.model, which is then not trained.
    teacher.weights = ""
    # Class names by output of a given teacher, separated by commas, in a tuple, or as a JSON list;
    # empty: those that its file has, or else the order of the data set.
    teacher.class_names = ""
    # auto | nhwc | nchw: the order of the axes of the input of teacher.onnx; auto: from its shape.
    teacher.input_layout = "auto"
    teacher.input_channels = "rgb"  # rgb | bgr: order of the channels of teacher.onnx
    # teacher.onnx and teacher.weights get (x / input_scale - input_mean) / input_std for pixels x
    # in 0..255. 0: 255; an ONNX file with an input of uint8 gets the pixels as they are.
    teacher.input_scale = 0.0
    # One number, one per channel, `data` for the mean and std of the training images, or
    # `imagenet`; empty: 0 for teacher.onnx, and `data` for teacher.weights if all three fields are
    # empty.
    teacher.input_mean = ""
    teacher.input_std = ""  # as input_mean; empty: 1, or what input_mean names
    # auto | off: auto computes the teacher's logits once for every augmentation of every image if
    # an image has at most as many augmentations as the student has epochs, and if they fit in
    # memory; off computes them at every step.
    teacher.cache = "auto"
    return teacher


def _student() -> ConfigDict:
    """Returns the fields of the student: its stage, and its initial weights."""
    student = _stage()
    # Weights with which the student's training starts: the workdir of a run, or a safetensors file;
    # empty: random ones.
    student.init = ""
    return student


def _stage() -> ConfigDict:
    """Returns the fields of one stage: a network and its training."""
    stage = ConfigDict(type_safe=False)
    # A key of kdjax.models.MODELS, or a Flax class of your own as package.module:Class or
    # path/to/file.py:Class; empty: derived from setting and size, see PAIRS.
    stage.model = ""
    # Further arguments of a class of your own: a dict, or its JSON text, such as {"depth": 3}.
    stage.model_args = ""
    # small: 3x3 | large: that of networks for ImageNet, which reduces height and width to a quarter
    # | auto: large from 64x64 pixels on. alexnet has one stem only, with stride 4.
    stage.stem = "auto"
    stage.width = 0  # channels of the first layer, >= 0; 0: the default of the model
    # float32 | bfloat16: dtype of the network's computation; weights and losses are float32.
    stage.compute_dtype = "float32"
    stage.epochs = 200  # training epochs, >= 1
    stage.batch_size = 128  # images in a global batch, over all devices, >= 1
    # Peak learning rate, > 0; 0: the default of the model, see LEARNING_RATES.
    stage.learning_rate = 0.0
    stage.momentum = 0.9  # momentum of SGD, in [0, 1); as in the code of arXiv 1907.00208
    stage.nesterov = True  # whether to use Nesterov momentum
    stage.weight_decay = 5e-4  # L2 coefficient, >= 0; as in the code of arXiv 1907.00208
    # Whether weight decay also applies to biases and batch-norm parameters.
    stage.decay_all = False
    stage.warmup_epochs = 1.0  # epochs of linear warm-up of the learning rate, >= 0
    # cosine: to zero at the last step | step: multiplied by step_factor every step_every epochs.
    stage.schedule = "cosine"
    stage.step_every = 25  # epochs between the drops of step, >= 1; as in arXiv 1907.00208's code
    stage.step_factor = 0.5  # factor of each drop of step, > 0; as in arXiv 1907.00208's code
    # none | ema: exponential moving average over steps | swa: mean over epochs, arXiv 1803.05407:
    # averaging of the weights.
    stage.average = "none"
    # Fraction of the epochs after which averaging starts, in [0, 1).
    stage.average_start = 0.75
    stage.ema_decay = 0.999  # decay per step of the exponential moving average, in [0, 1)
    # Batches from which the batch-norm statistics of the averaged weights are computed, >= 1.
    stage.bn_batches = 100
    return stage


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a locked, checked copy with the derived fields and the smoke settings filled in.

    Raises:
        ValueError: for a missing field, a field out of range, or an unknown name (with the nearest
            valid name).
    """
    config = convert_types(config)
    settings, sizes = zip(*PAIRS, strict=True)
    config_checks.check_choices(
        config, {"setting": set(settings), "size": set(sizes), "best_metric": BEST_METRICS}
    )
    config.data.name = absolute(config.data.name)
    config_checks.check_networks(config)
    teacher, student = PAIRS[config.setting, config.size]
    config.teacher.model = config.teacher.model or teacher
    config.student.model = config.student.model or student
    for stage in (config.teacher, config.student):
        stage.model = user_class.absolute(stage.model)
        stage.learning_rate = stage.learning_rate or default_learning_rate(stage.model)
    if config.order_seed == -1:
        config.order_seed = config.seed
    config_checks.check_ranges(config)
    config_checks.check_teacher(config.teacher)
    if config.smoke:
        _shrink(config)
    config_checks.check_pretraining(config)
    return config.lock()


def convert_types(config: ConfigDict) -> ConfigDict:
    """Returns a copy with every value as the type of its field, such as 2 for 2.0.

    Raises:
        InputError: for a missing or unknown field, a value that cannot be converted without loss,
            or a number that is not finite.
    """
    fields, defaults = (
        flatten_dict(_with_argument_texts(fields.to_dict()), sep=".") for fields in (config, base())
    )
    if "students" in config:  # a dict would be flattened
        given = config.students
        given = given.to_dict() if isinstance(given, ConfigDict) else given
        field_types.convert("students", given, defaults["students"])
    _check_fields(fields, defaults)
    for name in _LISTS:
        fields[name] = field_types.comma_separated(fields[name])
    typed = {
        name: field_types.convert(name, fields[name], default) for name, default in defaults.items()
    }
    return ConfigDict(unflatten_dict(typed, sep="."))


def _with_argument_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a nested config with dicts of arguments as JSON text."""
    return {
        name: {**group, "model_args": field_types.json_object(group["model_args"])}
        if isinstance(group, dict) and "model_args" in group
        else group
        for name, group in fields.items()
    }


def default_learning_rate(model: str) -> float:
    """Returns the learning rate of a network if the config gives none."""
    return LEARNING_RATES.get(model, DEFAULT_LEARNING_RATE)


def hyperparameters(config: ConfigDict) -> Hyperparameters:
    """Returns the hyperparameters of the objective."""
    objective = config.objective
    return Hyperparameters(
        payoff=objective.payoff,
        weight=objective.distill_weight,
        temperature=objective.temperature,
        adjustment=objective.adjustment,
        epsilon=objective.epsilon,
    )


def _shrink(config: ConfigDict) -> None:
    """Reduces images, batches and epochs for a smoke run; the networks stay the same."""
    config.data.limit = 64
    config.eval_batch_size = 32
    config.objective.pretrain_epochs = min(1, config.objective.pretrain_epochs)
    for stage, epochs in ((config.teacher, 1), (config.student, 2)):
        stage.epochs, stage.batch_size, stage.warmup_epochs = epochs, 16, 0.5
        stage.bn_batches = 2


def _check_fields(fields: Iterable[str], defaults: Iterable[str]) -> None:
    names, known = set(fields), set(defaults)
    for name in sorted(names - known):
        if name in config_fields.RENAMED_FIELDS:
            raise InputError(
                f"config field {name!r} is now called {config_fields.RENAMED_FIELDS[name]!r}"
            )
        raise config_fields.unknown_field_error("config field", name, known)
    for name in sorted(known - names):
        raise InputError(f"config field {name!r} is missing: start from kdjax.config.base()")
