"""The PyTorch baseline, where PyTorch is installed: its loss, its network and a short training."""

import importlib
import json
import pathlib

import numpy as np
import pytest
from support import baselines as support

from experiments.paper.baselines import exported

torch = pytest.importorskip("torch", reason="PyTorch, which only this baseline needs, is absent")
deep_gamblers = importlib.import_module("experiments.paper.baselines.deep_gamblers_torch")


def reference_loss(logits: np.ndarray, labels: np.ndarray, payoff: float) -> float:
    """Returns the mean of -log(q_y + q_a / o), in float64."""
    logits = logits.astype(np.float64)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    gain = probabilities[np.arange(len(labels)), labels] + probabilities[:, -1] / payoff
    return float(-np.log(gain).mean())


@pytest.mark.parametrize("payoff", [1.5, 2.2, 9.0])
def test_loss_is_that_of_the_equation(payoff: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(50, 11)), rng.integers(10, size=50)
    found = deep_gamblers.gambler_loss(
        torch.from_numpy(logits).float(), torch.from_numpy(labels), payoff
    )
    assert found.item() == pytest.approx(reference_loss(logits, labels, payoff), rel=1e-5)


def test_epoch_has_the_augmentations_of_the_split_in_its_order() -> None:
    rng = np.random.default_rng(1)
    split = support.split(rng)
    data = deep_gamblers.DeviceData(split, split.settings, torch.device("cpu"))
    order = rng.permutation(support.EXAMPLES)
    found = data.augment(order, split.views[1][order])
    images, labels = data.epoch(split, seed=0, epoch=2)
    first = exported.epoch_generator(0, 2).permutation(support.EXAMPLES)
    np.testing.assert_array_equal(images, data.augment(first, split.views[0][first]))
    np.testing.assert_array_equal(labels, split.labels[exported.TRAIN][first])
    images = split.images[exported.TRAIN]
    expected = [support.crop(images[row], split.views[1][row], split.settings) for row in order]
    np.testing.assert_array_equal(found, expected)
    normalized = (np.stack(expected) / 255 - split.settings.mean) / split.settings.std
    np.testing.assert_allclose(
        data.normalize(found).permute(0, 2, 3, 1), normalized, rtol=1e-4, atol=1e-5
    )


def test_initial_weights_have_the_variance_of_our_networks() -> None:
    split = support.split(np.random.default_rng(2))
    network = deep_gamblers.create("alexnet", split, seed=0)
    kernels = [value for value in network.parameters() if value.ndim == 4]
    for kernel in kernels:
        fan_in = kernel[0].numel()
        assert kernel.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert network.head.Dense_0.weight.shape == (support.CLASSES + 1, 256)
    assert not any(value.any() for value in network.parameters() if value.ndim == 1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--method=gambler"], "gambler (PyTorch)"),
        (["--method=ce", "--dtype=bfloat16"], "ce (PyTorch)"),
        (["--schedule=halving", "--epochs=3", "--batch-size=4"], "gambler (PyTorch, public"),
    ],
)
def test_short_training_writes_logits_of_every_split(
    arguments: list[str], name: str, tmp_path: pathlib.Path
) -> None:
    split = support.split(np.random.default_rng(3))
    support.save_split(tmp_path / "split.npz", split)
    files = [f"--split={tmp_path / 'split.npz'}", f"--out={tmp_path / 'out'}", "--device=cpu"]
    deep_gamblers.main([*files, *arguments])
    (path,) = (tmp_path / "out").glob("*.json")
    record = json.loads(path.read_text())
    assert record["name"].startswith(name) and record["abstains"] == ("gambler" in name)
    assert record["classes"] == support.CLASSES and record["seconds"] > 0
    with np.load(path.with_suffix(".npz")) as arrays:
        for split_name in exported.EVALUATED:
            for key in (split_name, f"{split_name}_mirrored"):
                assert arrays[key].shape == (support.EXAMPLES, support.CLASSES + 1)
                assert np.isfinite(arrays[key]).all()
            labels = arrays[f"{split_name}_labels"]
            np.testing.assert_array_equal(labels, split.labels[split_name])


def test_training_learns_what_can_be_learned(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(4)
    split = support.split(rng, epochs=8, pretrain_epochs=4, learning_rate=0.02)
    for name, images in split.images.items():  # the class is the brightness
        images[:] = images // 8 + 90 * split.labels[name][:, None, None, None].astype(np.uint8)
    support.save_split(tmp_path / "split.npz", split)
    files = [f"--split={tmp_path / 'split.npz'}", f"--out={tmp_path}", "--device=cpu"]
    deep_gamblers.main([*files, "--eval-every=0"])
    with np.load(tmp_path / "torch_gambler_cosine.npz") as arrays:
        predicted = arrays["test"][:, :-1].argmax(1)
        assert np.mean(predicted == split.labels["test"]) >= 0.9


def test_diverged_training_is_one_line(tmp_path: pathlib.Path) -> None:
    split = support.split(np.random.default_rng(6), learning_rate=1e6, warmup_epochs=0.0)
    support.save_split(tmp_path / "split.npz", split)
    with pytest.raises(SystemExit, match=r"error: epoch [12]: training diverged"):
        deep_gamblers.main([f"--split={tmp_path / 'split.npz'}", f"--out={tmp_path}"])


def test_unknown_network_is_one_line(tmp_path: pathlib.Path) -> None:
    split = support.split(np.random.default_rng(5), model="lenet")
    support.save_split(tmp_path / "split.npz", split)
    with pytest.raises(SystemExit, match="error: no student 'lenet' in PyTorch"):
        deep_gamblers.main([f"--split={tmp_path / 'split.npz'}", f"--out={tmp_path}"])
