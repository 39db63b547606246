"""The payoff of each method, chosen on dev among those with which it was trained.

It is chosen for each seed, since a seed repeats the whole training, and for each score and view.
"""

from collections.abc import Mapping
from typing import Any

from experiments.paper import plan, queue_options
from experiments.paper.collect import Ranking
from experiments.paper.table import AURC, Cells, Group, Row, metrics

# Rankings of a row by payoff.
Candidates = Mapping[float, Cells]


def is_changed(record: Mapping[str, Any]) -> bool:
    """Returns whether a job, given by its JSON file, has another payoff than its config."""
    return record["job"].get("payoff") is not None


def payoff_of(record: Mapping[str, Any]) -> float | None:
    """Returns the payoff of a job, given by its JSON file; None of one in another library."""
    options = queue_options.parse(record["command"])
    if options is None:
        return None
    job, changes = plan.Job(**record["job"]), plan.parse_changes(options.changes)
    return plan.config(job, options.budget, options.methods, changes).objective.payoff


def untuned(group: Group) -> list[str]:
    """Returns the trained methods with a payoff for which none was chosen on dev."""
    tuned = {row.method for row in group.payoffs}
    trained = {row.base.method for row in group.rows if row.is_ours}
    return sorted(name for name in trained if plan.has_payoff(name) and name not in tuned)


def choose(candidates: Candidates) -> dict[int, float]:
    """Returns the payoff with the lowest AURC on dev, for each seed that every payoff has."""
    seeds = set.intersection(*({seed for _, seed in cells} for cells in candidates.values()))

    def dev_aurc(payoff: float, seed: int) -> float:
        return metrics(candidates[payoff]["dev", seed])[AURC]

    return {
        seed: min(sorted(candidates), key=lambda payoff: dev_aurc(payoff, seed))
        for seed in sorted(seeds)
    }


def chosen_rows(candidates: Mapping[Row, Candidates]) -> dict[Row, dict[tuple[str, int], Ranking]]:
    """Returns the rankings of the networks with the chosen payoffs; no row without a seed."""
    rows = {}
    for row, of_row in candidates.items():
        chosen = choose(of_row)
        cells = {
            cell: ranking
            for payoff, of_payoff in of_row.items()
            for cell, ranking in of_payoff.items()
            if chosen.get(cell[1]) == payoff
        }
        if cells:
            rows[row.by_dev] = cells
    return rows
