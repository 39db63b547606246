"""The networks of `kdjax.models` and the default objective, implemented in PyTorch.

Modules have the names that Flax gives them, so that weights can be converted by name.
"""

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from experiments.benchmark import structure
from experiments.benchmark.cases import IMAGE_SHAPE, PAYOFF, TEMPERATURE


class ConvNorm(nn.Module):
    """A convolution without bias, then batch normalization."""

    def __init__(self, channels: int, layer: structure.Layer) -> None:
        """Creates the layers for inputs with `channels` channels."""
        super().__init__()
        width, kernel, stride = layer
        self.Conv_0 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.BatchNorm_0 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [b, width, h / stride, w / stride] for x [b, channels, h, w]."""
        return self.BatchNorm_0(self.Conv_0(x))


class Block(nn.Module):
    """A residual block: relu(F(x) + shortcut(x))."""

    def __init__(self, channels: int, layers: tuple[structure.Layer, ...]) -> None:
        """Creates the layers for inputs with `channels` channels."""
        super().__init__()
        inputs = [channels, *(width for width, _, _ in layers)]
        self.convolutions = len(layers)
        for index, layer in enumerate(layers):
            setattr(self, f"ConvNorm_{index}", ConvNorm(inputs[index], layer))
        stride = max(stride for _, _, stride in layers)
        if channels != inputs[-1] or stride > 1:
            self.shortcut: nn.Module = ConvNorm(channels, (inputs[-1], 1, stride))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [b, width, h / stride, w / stride] for x [b, channels, h, w]."""
        residual = x
        for index in range(self.convolutions):
            residual = getattr(self, f"ConvNorm_{index}")(residual)
            if index < self.convolutions - 1:
                residual = functional.relu(residual)
        return functional.relu(residual + self.shortcut(x))


class Head(nn.Module):
    """Global average pooling and one linear layer."""

    def __init__(self, channels: int, outputs: int) -> None:
        """Creates the layer for inputs with `channels` channels."""
        super().__init__()
        self.Dense_0 = nn.Linear(channels, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns logits [b, outputs]."""
        return self.Dense_0(features.mean((2, 3)))


def create(name: str, outputs: int, images: int = IMAGE_SHAPE[-1]) -> nn.Module:
    """Returns a network from normalized images to logits.

    Args:
        name: a key of `CREATE` or `structure.RESNETS`.
        outputs: number of logits; the network returns [b, outputs].
        images: channels of the images, [b, images, h, w].
    """
    create_ = CREATE.get(name) or functools.partial(_resnet, name=name)
    return create_(outputs=outputs, images=images)


def _resnet(name: str, outputs: int, images: int) -> nn.Module:
    network, width = nn.Sequential(), structure.RESNETS[name][2]
    network.add_module("stem", ConvNorm(images, (width, 3, 1)))
    network.add_module("stem_relu", nn.ReLU())
    channels = width
    for label, layers in structure.blocks(name):
        network.add_module(label, Block(channels, layers))
        channels = layers[-1][0]
    network.add_module("head", Head(channels, outputs))
    return network


def _alexnet(
    outputs: int, images: int, layers: tuple[tuple[int, int, int, bool], ...], normalize: bool
) -> nn.Module:
    network, channels = nn.Sequential(), images
    for index, (width, kernel, stride, pooled) in enumerate(layers):
        conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=not normalize)
        network.add_module(f"Conv_{index}", conv)
        if normalize:
            network.add_module(f"BatchNorm_{index}", nn.BatchNorm2d(width))
        network.add_module(f"relu_{index}", nn.ReLU())
        if pooled:
            network.add_module(f"pool_{index}", nn.MaxPool2d(2, ceil_mode=True))
        channels = width
    network.add_module("head", Head(channels, outputs))
    return network


class ScaledHead(nn.Module):
    """Global max-pooling, one linear layer without bias, and a constant factor."""

    def __init__(self, channels: int, outputs: int) -> None:
        """Creates the layer for inputs with `channels` channels."""
        super().__init__()
        self.Dense_0 = nn.Linear(channels, outputs, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns logits [b, outputs]."""
        return self.Dense_0(features.amax((2, 3))) * structure.LOGIT_SCALE


def _fast_cnn(outputs: int, images: int) -> nn.Module:
    network = nn.Sequential()
    channels = structure.WHITENED * images
    # Computed from the training images, not trained.
    whitening = nn.Conv2d(images, channels, structure.PATCH).requires_grad_(False)
    network.add_module("whitening", whitening)
    network.add_module("whitening_gelu", nn.GELU())
    widths = [width for width in structure.GROUPS for _ in range(structure.DEPTH)]
    for index, width in enumerate(widths):
        network.add_module(f"Conv_{index}", nn.Conv2d(channels, width, 3, 1, 1, bias=False))
        if index % structure.DEPTH == 0:
            network.add_module(f"pool_{index}", nn.MaxPool2d(2))
        norm = nn.BatchNorm2d(width)
        norm.register_parameter("weight", None)  # the scale is one
        network.add_module(f"BatchNorm_{index}", norm)
        network.add_module(f"gelu_{index}", nn.GELU())
        channels = width
    network.add_module("head", ScaledHead(channels, outputs))
    return network


CREATE: dict[str, Callable[..., nn.Module]] = {
    "alexnet": functools.partial(_alexnet, layers=structure.ALEXNET, normalize=False),
    "alexnet_small": functools.partial(_alexnet, layers=structure.ALEXNET_SMALL, normalize=True),
    "fast_cnn": _fast_cnn,
}


def ka_gambler_sum(
    logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Returns the mean of `kdjax.objectives.ka_gambler_sum` with probability shift, a scalar.

    Args:
        logits: of the student, [b, m+1].
        teacher_logits: [b, m].
        labels: int64 [b].
    """
    label_index = labels[:, None]
    probs = functional.softmax(teacher_logits / TEMPERATURE, dim=1)
    max_prob, predicted = probs.max(dim=1, keepdim=True)
    label_prob = probs.gather(1, label_index)
    targets = probs.scatter(1, predicted, label_prob).scatter(1, label_index, max_prob)
    class_logits, abstention_logit = logits[:, :-1], logits[:, -1]
    label_logit = class_logits.gather(1, label_index)[:, 0]
    log_payoff = torch.log(torch.tensor(PAYOFF))
    gain = torch.logaddexp(label_logit, abstention_logit - log_payoff)
    gambler = torch.logsumexp(logits, dim=1) - gain
    student_log_probs = functional.log_softmax(class_logits / TEMPERATURE, dim=1)
    divergence = functional.kl_div(student_log_probs, targets, reduction="none").sum(dim=1)
    return (gambler + TEMPERATURE**2 * divergence).mean()
