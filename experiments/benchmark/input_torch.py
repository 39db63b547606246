"""The usual PyTorch input pipeline: a DataLoader with workers that augment each image."""

import random
from collections.abc import Iterator

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from experiments.benchmark import cases

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WORKERS = 2
MEAN, STD = (
    torch.tensor(value, device=DEVICE).view(1, -1, 1, 1) for value in (cases.MEAN, cases.STD)
)
Batches = Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


class AugmentedImages(Dataset):
    """Images in memory, each with a random crop of the padded image and a random flip."""

    def __init__(self, count: int, augmented: bool) -> None:
        """Pads all images once, so that an access only crops."""
        images, labels = cases.examples(count)
        self.pad = cases.PAD if augmented else 0
        channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self.images = functional.pad(channels_first, (self.pad,) * 4)
        self.labels = torch.from_numpy(labels).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        if not self.pad:
            return self.images[index], self.labels[index], index
        top, left = random.randrange(2 * self.pad + 1), random.randrange(2 * self.pad + 1)
        height, width, _ = cases.IMAGE_SHAPE
        image = self.images[index, :, top : top + height, left : left + width]
        flipped = random.random() < 0.5
        return image.flip(2) if flipped else image, self.labels[index], index


def make_loader(count: int, batch: int, augmented: bool) -> DataLoader:
    """Returns the loader of `count` images in batches of `batch`."""
    return DataLoader(
        AugmentedImages(count, augmented),
        batch,
        shuffle=True,
        num_workers=WORKERS,
        drop_last=True,
        pin_memory=DEVICE.type == "cuda",
        persistent_workers=True,
    )


def iterate_batches(loader: DataLoader) -> Batches:
    """Yields normalized images float32 [b, 3, h, w] (channels last), labels and indices [b]."""
    for batch in loader:
        images, labels, indices = (value.to(DEVICE, non_blocking=True) for value in batch)
        yield normalize(images), labels, indices


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Returns normalized images float32 [b, 3, h, w] (channels last) for uint8 [b, 3, h, w]."""
    images = images.to(memory_format=torch.channels_last).float()
    return images.div_(255).sub_(MEAN).div_(STD)
