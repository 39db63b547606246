"""The architectures of `kdjax.models` as plain tables, for workers that cannot import kdjax."""

# A convolution of a residual block: output channels, kernel size, stride.
Layer = tuple[int, int, int]

WIDTH = 64
BASIC, BOTTLENECK = "basic", "bottleneck"
# Kind of block, and number of blocks in each stage.
RESNETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet18": (BASIC, (2, 2, 2, 2)),
    "resnet50": (BOTTLENECK, (3, 4, 6, 3)),
}
# Convolutions of AlexNet: output channels, kernel size, stride, whether pooling follows.
ALEXNET: tuple[tuple[int, int, int, bool], ...] = (
    (64, 11, 4, True),
    (192, 5, 1, True),
    (384, 3, 1, False),
    (256, 3, 1, False),
    (256, 3, 1, True),
)


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
    kind, depths = RESNETS[name]
    return [
        (
            f"stage{stage}_block{index}",
            block(kind, WIDTH * 2**stage, 2 if stage > 0 and index == 0 else 1),
        )
        for stage, depth in enumerate(depths)
        for index in range(depth)
    ]
