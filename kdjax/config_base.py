"""The fields of the configuration, their defaults, and comments that document them."""

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Returns the config from which every file in `configs/` starts: all fields, documented.

    It accepts values of any type, such as 2.0 for an integer: `resolve` converts or refuses them.
    """
    # Dicts are kept as they are: the keys of `sweep` are names of fields, with dots.
    config = ConfigDict(type_safe=False, convert_dict=False)
    config.name = "run"  # any name; the default workdir is runs/<name>
    # Integer seed of the initial weights, and of the order and augmentation of the images unless
    # order_seed is set; from 0 to 2^32 - 1. It does not affect the data splits.
    config.seed = 0
    # Integer seed of the order and augmentation of the images, from 0 to 2^32 - 1; -1: use seed.
    config.order_seed = -1
    # structure | depth: teacher and student differ in architecture or in depth, see PAIRS.
    config.setting = "structure"
    config.size = "paper"  # paper | laptop: full-size or small networks, see PAIRS
    # standard | fast: the set of fields with which the config begins, see kdjax.recipes; fast also
    # selects the networks of FAST_PAIRS. Fields that are given explicitly count more. In Python it
    # is set by kdjax.recipes.apply.
    config.recipe = "standard"
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
    # Epochs between evaluations on dev, each with a checkpoint, >= 1; the last epoch always has
    # one.
    config.eval_every = 1

    config.data = _data()
    config.objective = _objective()
    config.selective = _selective()
    config.teacher = _teacher()
    config.student = _student()
    # Changes of fields for each of several students of one teacher, trained together, such as
    # ({"objective.method": "kd"}, {"objective.payoff": 1.8, "seed": 1}); empty: one student.
    config.students = ()
    # Hyperparameters that are chosen on dev: a dict of fields with lists of values, such as
    # {"objective.payoff": (1.5, 2.2)}, or its JSON text. All combinations are trained together as
    # students of one teacher. Several dicts in a tuple: the combinations of each. Empty: no sweep.
    config.sweep = ""
    config.sweep_metric = "aurc"  # aurc | accuracy: the metric on dev by which sweep chooses
    # Seeds with which the chosen setting of sweep is trained again: text such as
    # "1,2,3", a tuple, or how many; empty or 0: it is not trained again.
    config.sweep_seeds = ""
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
    # Whether images are mirrored left to right, as flip_mode says.
    data.flip = True
    # random: each image with probability 1/2 | alternating: each image in every second epoch, at
    # random in the first one, arXiv 2404.00498.
    data.flip_mode = "random"
    return data


def _objective() -> ConfigDict:
    """Returns the fields of the loss of the student."""
    objective = ConfigDict(type_safe=False)
    # A key of kdjax.objectives.METHODS. ka_gambler_sum had a lower AURC on dev than ka_gambler_soft
    # in a short training (experiments/results/sum_or_soft.md) and in docs/results/comparison.md.
    objective.method = "ka_gambler_sum"
    # Payoff o of the gambler losses, > 1; from the number of classes on, abstaining never lowers
    # the loss. 2.2 is the value for CIFAR-10 in the code of arXiv 1907.00208.
    objective.payoff = 2.2
    # Weight lambda of the distillation term in methods with a second term, >= 0. Our choice.
    objective.distill_weight = 1.0
    # Epochs in which lambda rises linearly from 0 to distill_weight, counted from the end of
    # pre-training, >= 0; 0: none. dkd and rld are usually trained with 20, arXiv 2203.08679.
    objective.distill_warmup_epochs = 0.0
    # Distillation temperature T, > 0; 4 is usual, e.g. arXiv 1910.10699.
    objective.temperature = 4.0
    # Whether the distillation terms see standardized class logits of teacher and student, (v - mean
    # v) / std v, before the temperature; 2 is the usual temperature then. arXiv 2403.01427.
    objective.logit_standardization = False
    # probability_shift | label_smooth_regularization | refined | none: how the label corrects the
    # teacher where it is wrong; arXiv 1911.07471, and refined after arXiv 2408.07703.
    objective.adjustment = "probability_shift"
    # Smoothing of label_smooth_regularization, in [0, 1 - 1/classes); 0.1 is the value of two
    # public implementations of arXiv 1911.07471.
    objective.epsilon = 0.1
    # Weight a of dkd and rld, of the confidence in the label, >= 0; 1 in arXiv 2203.08679.
    objective.target_weight = 1.0
    # Weight b of dkd and rld, of the other classes, >= 0; 8 is the default of the code of arXiv
    # 2203.08679.
    objective.non_target_weight = 8.0
    # Weights b and c of dist, of the correlations over the classes of each example and over the
    # examples of each class, >= 0; 2 with temperature 4, or 1 with temperature 1, arXiv 2205.10536.
    objective.inter_class_weight = 2.0
    objective.intra_class_weight = 2.0  # see inter_class_weight
    # Momentum of the running targets of self_adaptive, per epoch, in [0, 1); 0.99 with 300 epochs
    # in the code of arXiv 2002.10319. 0.9 moves the targets as far in 30.
    objective.target_momentum = 0.99
    # Epochs of cross-entropy training before the method, from 0 to student.epochs; makes
    # abstention on all images at low payoffs rarer, arXiv 1907.00208.
    objective.pretrain_epochs = 0
    # Fraction of student.epochs after which the losses are weighted by the rank of the teacher's
    # confidence, in [0, 1]; 1: never. Epochs of pre-training are not weighted. arXiv 2410.15361.
    objective.rank_weight_start = 1.0
    return objective


def _selective() -> ConfigDict:
    """Returns the fields of the deployed network: its views, and its certificate."""
    selective = ConfigDict(type_safe=False)
    # Views of an image over which the logits of the trained network are averaged, in evaluation,
    # certificate, export and prediction alike. none: the image | flip: it and its mirror image |
    # shift: it, and moved by one pixel up, down, left and right, each also mirrored if data.flip |
    # auto: flip if data.flip, else none. The logits that teach are not averaged, nor those on dev
    # during training.
    selective.views = "auto"
    # Selective risk (error among accepted images) that the certificate guarantees, in (0, 1).
    selective.risk = 0.02
    # Probability that the certificate does not hold, in (0, 1).
    selective.delta = 0.05
    # Least coverage (share of accepted images) that is promised together with selective.risk, in
    # [0, 1); 0: none is requested, and the report says which coverage is possible.
    selective.coverage = 0.0
    # Share of the images on which the network abstains whose prediction set may lack the
    # right one, in (0, 1).
    selective.set_alpha = 0.1
    # lac | aps | raps: how these sets are made. lac: the classes above a probability, which makes
    # the smallest sets on average; aps: the most probable classes up to a total probability, which
    # makes larger ones where the network is less sure; raps: aps with a penalty for large sets.
    selective.set_method = "lac"
    # none | energy | mahalanobis: a gate that stops images unlike those of training, whatever the
    # confidence. energy: by the logits; mahalanobis: by the distance of the features before the
    # last layer from those of the training images.
    selective.gate = "none"
    # Share of images like those of training that the gate should pass, in (0, 1).
    selective.gate_acceptance = 0.95
    return selective


def _teacher() -> ConfigDict:
    """Returns the fields of the teacher: its stage, and one that is given."""
    teacher = _stage()
    # Share of the target that is divided equally among all classes, in [0, 1), while the teacher is
    # trained; 0: none.
    teacher.label_smoothing = 0.0
    # K: the training images are cut into K stratified folds, and K teachers are trained, each
    # without one fold. A training image is taught by the teacher that has not seen it, other images
    # by the mean of the log-probabilities of all. 0: one teacher; else from 2 to the number of
    # training images.
    teacher.folds = 0
    # Workdir of a trained teacher; empty: train a teacher in <workdir>/teacher. Several, separated
    # by commas or in a tuple: the mean of their log-probabilities teaches.
    teacher.workdir = ""
    teacher.onnx = ""  # an ONNX file that is the teacher; it is not trained
    # Name of the output of teacher.onnx that holds the logits or probabilities; empty: `logits`, or
    # the only output that can be meant.
    teacher.onnx_output = ""
    # An .npz file with the teacher's logits [n, m] or [views, n, m] and the index of the images,
    # see `kdjax logits`.
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
    # an image has at most as many augmentations (or teacher.views) as there are epochs with the
    # teacher, and if they fit in memory; off computes them at every step.
    teacher.cache = "auto"
    # Number V of fixed random augmentations of each image of the student's training, >= 0: epoch e
    # sees that of epoch e mod V, whatever the method, so that the teacher's logits can be computed
    # once for each of them; 0: another one in every epoch.
    teacher.views = 0
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
    # float32 | bfloat16 | auto: dtype of the network's computation; weights and losses are float32.
    # auto: the faster one on this device, see kdjax.runtime.compiler.fastest_dtype; float32 for a
    # class of your own. Several students have the dtype of the config's model, unless they set it.
    stage.compute_dtype = "float32"
    stage.epochs = 200  # training epochs, >= 1
    stage.batch_size = 128  # images in a global batch, over all devices, >= 1
    # sgd | sam: SGD with the gradient at perturbed weights, which costs a second gradient, arXiv
    # 2010.01412 | muon: orthogonalized momentum for kernels of hidden layers, Adam for the rest.
    stage.optimizer = "sgd"
    # Peak learning rate, > 0; 0: the default of the model, see LEARNING_RATES, or of muon.
    stage.learning_rate = 0.0
    stage.momentum = 0.9  # momentum of SGD, in [0, 1); as in the code of arXiv 1907.00208
    # Length of the step to the perturbed weights of sam, > 0; as in arXiv 2010.01412.
    stage.sam_rho = 0.05
    stage.nesterov = True  # whether to use Nesterov momentum
    stage.weight_decay = 5e-4  # L2 coefficient, >= 0; as in the code of arXiv 1907.00208
    # Whether weight decay also applies to biases and batch-norm parameters.
    stage.decay_all = False
    # Factor of the learning rate of the biases of normalization layers, > 0; 64 in arXiv
    # 2404.00498.
    stage.bn_bias_factor = 1.0
    stage.warmup_epochs = 1.0  # epochs of linear warm-up of the learning rate, >= 0
    # cosine, linear: to zero at the last step | step: multiplied by step_factor every step_every
    # epochs.
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
