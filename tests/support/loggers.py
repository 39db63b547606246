"""Stand-ins for the packages wandb and mlflow that keep what a writer sends to them."""

import sys
import types
from typing import Any

import pytest


class Wandb:
    """The part of wandb that kdjax uses.

    Attributes:
        runs: by id: the arguments of `init`, the logged lines, and how often the run was finished.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}

    def init(self, **options: Any) -> types.SimpleNamespace:
        run = self.runs.setdefault(options["id"], {"lines": [], "finished": 0})
        run["options"] = options

        def finish() -> None:
            run["finished"] += 1

        return types.SimpleNamespace(
            log=lambda values, step: run["lines"].append((step, values)), finish=finish
        )

    @staticmethod
    def Settings(**settings: Any) -> dict[str, Any]:
        return settings


class Mlflow:
    """The part of mlflow that kdjax uses: the module and its client in one.

    Attributes:
        experiments: their names, by id.
        runs: by id: experiment, name, status, parameters and metrics.
    """

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        pair = lambda *values: values  # noqa: E731
        self.entities = types.SimpleNamespace(Param=pair, Metric=pair)

    def MlflowClient(self) -> "Mlflow":
        return self

    def get_experiment_by_name(self, name: str) -> types.SimpleNamespace | None:
        numbers = [number for number, known in self.experiments.items() if known == name]
        return types.SimpleNamespace(experiment_id=numbers[0]) if numbers else None

    def create_experiment(self, name: str) -> str:
        self.experiments[str(len(self.experiments))] = name
        return str(len(self.experiments) - 1)

    def create_run(self, experiment: str, run_name: str) -> types.SimpleNamespace:
        run = f"run{len(self.runs)}"
        fields = {"experiment": experiment, "name": run_name, "params": {}, "metrics": []}
        self.runs[run] = fields
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run))

    def update_run(self, run: str, status: str) -> None:
        self.runs[run]["status"] = status

    def set_terminated(self, run: str) -> None:
        self.runs[run]["status"] = "FINISHED"

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100 and all(len(value) <= 500 for _, value in params)
        self.runs[run]["params"].update(params)
        self.runs[run]["metrics"] += [(name, value, step) for name, value, _, step in metrics]


def install(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """Makes `import NAME` give a stand-in, or fail if it is None."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
