"""Learn then Test and Holm's method of MAPIE on the same predictions."""

import numpy as np
import pytest
from mapie import risk_control
from mapie.risk_control import methods
from numpy.testing import assert_allclose
from scipy.special import bdtr

from kdjax.selective import certificates, certified_ladder, learn_then_test

N = 600


def sample(seed):
    rng = np.random.default_rng(seed)
    rank = rng.permutation(N) / N
    return 1 - rank, rng.random(N) >= 0.3 * rank**3


def tied(confidence, correct):
    """Returns a sample with tie groups that end only where MAPIE counts the errors exactly.

    It multiplies the error rate by the number of accepted examples and rounds up, which may add 1.
    """
    order = np.argsort(-confidence)
    accepted, errors = np.arange(1, N + 1), np.cumsum(~correct[order])
    exact = np.ceil(accepted * (1 - (accepted - errors) / accepted)) == errors
    group = np.concatenate([[0], np.cumsum(exact)[:-1]])
    assert exact.sum() > N / 2
    return 1 - group / N, correct[order]


# MAPIE warns unless the risk of the sample rises at every step; it tests in the given order.
@pytest.mark.filterwarnings("ignore:Fixed sequence testing requires a monotonic risk")
@pytest.mark.filterwarnings("ignore:All provided predict_params control the risk")
@pytest.mark.parametrize("risk", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_fixed_sequence_accepts_what_mapies_controller_of_precision_accepts(risk, seed):
    """Precision of the class `correct`, with the confidence as its probability, is 1 - risk."""
    confidence, correct = tied(*sample(seed))
    delta = 0.05
    start = certificates.fixed_sequence(confidence, correct, risk=risk, level=delta)
    # From the strictest threshold on, as MAPIE tests them.
    thresholds = start.groups.threshold[start.start - 1 :] - 0.1 / N
    controller = risk_control.BinaryClassificationController(
        lambda values: np.stack([1 - values, values], axis=1),
        risk="precision",
        target_level=1 - risk,
        confidence_level=1 - delta,
        best_predict_param_choice="recall",
        list_predict_params=thresholds,
        fwer_method=risk_control.FWERFixedSequenceTesting(n_starts=1),
    )
    controller.calibrate(confidence, correct.astype(int))
    found = learn_then_test(confidence, correct, risk=risk, delta=delta)
    accepted = np.sum(confidence >= found.threshold)
    assert len(controller.valid_predict_params) == np.sum(thresholds > found.threshold - 1e-9)
    assert np.sum(confidence >= controller.best_predict_param) == accepted > 0


@pytest.mark.parametrize(("errors", "accepted"), [(0, 59), (1, 200), (3, 128), (16, 512)])
def test_p_values_are_those_of_mapie(errors, accepted):
    risk = 0.05
    (value,) = methods.compute_hoeffding_bentkus_p_value(
        np.array([errors / accepted]), np.array([accepted]), risk, binary=True
    ).ravel()
    assert_allclose(bdtr(errors, accepted, risk), value, rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_completed_risks_are_those_that_holms_method_of_mapie_rejects(seed):
    confidence, correct = sample(seed)
    risks, delta = (0.3, 0.2, 0.12, 0.1, 0.05), 0.05
    found = certified_ladder(confidence, correct, risks=risks, delta=delta)
    largest = [
        certificates.fixed_sequence(
            confidence, correct, risk=risk, level=delta / len(risks), highest=0.999
        ).largest
        for risk in risks
    ]
    rejected = risk_control.control_fwer(np.array(largest), delta, "bonferroni_holm")
    completed = [index for index, one in enumerate(found.certificates) if one.coverage == 1]
    assert rejected.tolist() == completed and 0 < len(completed) < len(risks)
    assert found.level == pytest.approx(delta / (len(risks) - len(completed)))
