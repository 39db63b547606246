"""The architectures of `kdjax.models` as plain tables, for workers that cannot import kdjax."""

# A convolution of a residual block: output channels, kernel size, stride.
Layer = tuple[int, int, int]

BASIC, BOTTLENECK = "basic", "bottleneck"
# Kind of block, number of blocks in each stage, and channels of the first stage.
RESNETS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "resnet8": (BASIC, (1, 1, 1), 16),
    "resnet14": (BASIC, (2, 2, 2), 16),
    "resnet20": (BASIC, (3, 3, 3), 16),
    "resnet56": (BASIC, (9, 9, 9), 16),
    "resnet18": (BASIC, (2, 2, 2, 2), 64),
    "resnet50": (BOTTLENECK, (3, 4, 6, 3), 64),
}
# Convolutions of AlexNet: output channels, kernel size, stride, whether pooling follows.
ALEXNET: tuple[tuple[int, int, int, bool], ...] = (
    (64, 11, 4, True),
    (192, 5, 1, True),
    (384, 3, 1, False),
    (256, 3, 1, False),
    (256, 3, 1, True),
)
# The same of its small form, which has batch normalization.
ALEXNET_SMALL: tuple[tuple[int, int, int, bool], ...] = (
    (32, 3, 1, True),
    (64, 3, 1, True),
    (96, 3, 1, False),
    (64, 3, 1, False),
    (64, 3, 1, True),
)
# Of the fast network: pixels of a side of the patches that are whitened, channels of the whitening
# for each channel of the images, channels of each group of convolutions, convolutions of a group,
# and the factor of the logits.
PATCH, WHITENED, GROUPS, DEPTH, LOGIT_SCALE = 2, 8, (64, 256, 256), 2, 1 / 9


def block(kind: str, width: int, stride: int) -> tuple[Layer, ...]:
    """Returns the convolutions of a residual block.

    Args:
        kind: `BASIC` or `BOTTLENECK`.
        width: channels of the 3x3 convolutions.
        stride: the stride of the first 3x3 convolution.
    """
    if kind == BASIC:
        return (width, 3, stride), (width, 3, 1)
    return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


def blocks(name: str) -> list[tuple[str, tuple[Layer, ...]]]:
    """Returns the blocks of a residual network in order: name in kdjax, and convolutions."""
    kind, depths, width = RESNETS[name]
    return [
        (
            f"stage{stage}_block{index}",
            block(kind, width * 2**stage, 2 if stage > 0 and index == 0 else 1),
        )
        for stage, depth in enumerate(depths)
        for index in range(depth)
    ]
