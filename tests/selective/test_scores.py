"""The confidence scores against their equations in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, logsumexp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from kdjax import selective
from kdjax.errors import InputError
from kdjax.selective.scales import LOG_FORMS, scale_name

HALF = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in (jnp.bfloat16, jnp.float16)]
DTYPES = [jnp.float32, *HALF]
CLASS_ONLY = [
    "softmax_response", "negative_entropy", "margin", "max_logit_pnorm",
    "softmax_response_log_odds", "margin_log", "doctor", "energy",
]  # fmt: skip
POWERS = [0.5, 1.0, 2.0, 3.0, 10.0, np.inf]

# For logits with abstention in the last column; op by op, each operation is compiled by itself.
PLAIN = {name: partial(score, abstention=True) for name, score in selective.SCORES.items()}
SCORES = {name: jax.jit(score) for name, score in PLAIN.items()}
predict = partial(selective.predict, abstention=True)
reservation = partial(selective.reservation, abstention=True)
max_logit_pnorm = partial(selective.max_logit_pnorm, abstention=True)

each_score = pytest.mark.parametrize("name", SCORES)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def random_logits(shape=(40, 6), scale=3.0, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, dtype)


def softmax(z):
    powers = np.exp(z - z.max())
    return powers / powers.sum()


def pnorm(z, p=2.0):
    centred = z - z.mean()
    return centred.max() / np.sum(np.abs(centred) ** p) ** (1 / p) if np.ptp(z) else 0.0


def largest_minus_others(z, classes):
    chosen = np.argmax(z[:classes])
    return z[chosen] - logsumexp(np.delete(z, chosen))


def margin_log(z):
    """-log of r_(2) + the sum of all r but the largest."""
    ascending = np.sort(z)
    return logsumexp(z) - logsumexp([*ascending[:-1], ascending[-2]])


def doctor(z):
    """1 - g is the sum of r_i r_j over i != j."""
    pairs = (z[:, None] + z)[~np.eye(len(z), dtype=bool)]
    return logsumexp(2 * z) - logsumexp(pairs)


# The equations for one row of float64 logits; the last column is abstention.
EQUATIONS = {
    "reservation": lambda z: 1 - softmax(z)[-1],
    "softmax_response": lambda z: softmax(z[:-1]).max(),
    "max_probability": lambda z: softmax(z)[:-1].max(),
    "negative_entropy": lambda z: -entr(softmax(z[:-1])).sum(),
    "margin": lambda z: -np.diff(np.sort(softmax(z[:-1]))[:-3:-1])[0],
    "max_logit_pnorm": lambda z: pnorm(z[:-1]),
    "reservation_log_odds": lambda z: logsumexp(z[:-1]) - z[-1],
    "softmax_response_log_odds": lambda z: largest_minus_others(z[:-1], None),
    "max_probability_log_odds": lambda z: largest_minus_others(z, -1),
    "margin_log": lambda z: margin_log(z[:-1]),
    "doctor": lambda z: doctor(z[:-1]),
    "energy": lambda z: logsumexp(z[:-1]),
    "combination": lambda z: logsumexp(z[:-1]) - z[-1] + largest_minus_others(z[:-1], None),
}

# Class logits far apart or equal; abstention far above, far below or -inf.
EXTREME = np.array(
    [
        [1e4, -1e4, 0, 0],
        [-1e4, -1e4, -1e4, 1e4],
        [1e4, 1e4, 1e4, -1e4],
        [1e4, 1e4, -1e4, 1e4],
        [0, 0, 0, 1e4],
        [0, 0, 0, 0],
        [2, 1, 0, -np.inf],
        [1e4, -1e4, 0, -np.inf],
    ]
)


@pytest.mark.slow
@each_score
@each_dtype
def test_scores_follow_their_equations_with_finite_gradients(name, dtype):
    logits = jnp.concatenate([random_logits((40, 4), dtype=dtype), jnp.asarray(EXTREME, dtype)])
    values, pull_back = jax.vjp(SCORES[name], logits)
    expected = [EQUATIONS[name](z) for z in np.asarray(logits, np.float64)]
    assert values.dtype == jnp.float32
    assert_allclose(values, expected, rtol=2e-6, atol=2e-6)
    assert np.all(np.isfinite(pull_back(jnp.ones_like(values))[0]))


@pytest.mark.slow
@each_score
def test_jit_and_vmap_give_the_same_scores(name):
    score, logits = PLAIN[name], random_logits((3, 5, 4))
    plain = score(logits)
    assert plain.shape == (3, 5)
    assert_allclose(SCORES[name](logits), plain, rtol=1e-6, atol=1e-7)
    assert_allclose(jax.jit(jax.vmap(jax.vmap(score)))(logits), plain, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@each_score
def test_gradients_follow_finite_differences_of_the_equation(name):
    logits, step = random_logits((5,), scale=1.0), 1e-6
    row = np.asarray(logits, np.float64)
    equation = EQUATIONS[name]
    slopes = [(equation(row + d) - equation(row - d)) / (2 * step) for d in step * np.eye(5)]
    gradient = jax.grad(SCORES[name])(logits)
    assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CLASS_ONLY)
def test_class_only_scores_ignore_the_abstention_logit(name):
    score, logits = SCORES[name], np.array(random_logits())
    assert_array_equal(score(logits), score(logits + 7 * np.float32(np.arange(6) == 5)))


@each_score
def test_scores_but_energy_are_invariant_to_a_common_shift(name):
    score, logits = SCORES[name], np.round(random_logits())
    if name == "energy":
        assert_allclose(score(logits + 4096), score(logits) + 4096, rtol=1e-6)
    else:
        assert_array_equal(score(logits + 4096), score(logits))


@pytest.mark.parametrize(("name", "form"), LOG_FORMS.items())
def test_log_forms_rank_like_the_probability_without_its_ties(name, form):
    """The logits of a confident network: the probabilities of many examples are exactly 1."""
    logits = random_logits((500, 5), scale=0.5).at[:, 0].add(jnp.linspace(0, 60, 500))
    probability, log_form = (np.asarray(SCORES[each](logits)) for each in (name, form))
    assert np.sum(probability == 1) > 100
    assert len(np.unique(log_form)) >= len(logits) - 5  # float32 values may coincide anywhere
    assert np.all(np.diff(probability[np.argsort(log_form)]) > -3e-7)
    assert_allclose(selective.shown(form, log_form), probability, rtol=0, atol=3e-7)
    assert selective.display_name(form) == selective.display_name(name) == name.replace("_", " ")


def test_thresholds_of_log_forms_are_shown_as_probabilities_too():
    assert selective.shown_threshold("softmax_response_log_odds", 0) == "0.5 (log-odds 0)"
    names = {"doctor": "log-odds", "margin_log": "-log(1 - s)", "margin": "", "energy": ""}
    assert {score: scale_name(score) for score in names} == names
    assert selective.shown_threshold("margin_log", np.log(4)) == "0.75 (-log(1 - s) 1.38629)"
    assert selective.shown_threshold("margin", 0.25) == "0.25"
    assert selective.shown_threshold("energy", 12.5) == "12.5"


@pytest.mark.slow
def test_doctor_is_the_log_odds_of_the_sum_of_squared_probabilities():
    """Its paper rejects by (1 - g) / g."""
    logits = random_logits()
    squares = np.array([np.sum(softmax(z[:-1]) ** 2) for z in np.asarray(logits, np.float64)])
    assert_allclose(np.exp(-SCORES["doctor"](logits)), (1 - squares) / squares, rtol=1e-4)
    assert_allclose(selective.shown("doctor", SCORES["doctor"](logits)), squares, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_combination_weighs_the_two_log_odds(transform):
    logits = random_logits()
    parts = [SCORES[f"{name}_log_odds"](logits) for name in ("softmax_response", "reservation")]
    combined = transform(partial(PLAIN["combination"], coefficients=(0.5, 2.0, -0.25)))
    assert_allclose(combined(logits), 0.5 + 2 * parts[0] - 0.25 * parts[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"coefficients of shape \(2,\): need three"):
        selective.combination(logits, coefficients=(1.0, 2.0), abstention=True)


@pytest.mark.slow
def test_reservation_is_accurate_near_zero():
    # The relative error is the float32 spacing at log odds of -39; computing 1 - q_a would give 0.
    expected = 2 * np.exp(-40.0) / (1 + 2 * np.exp(-40.0))
    score = reservation(np.float32([0, 0, 40]))
    assert_allclose(score, expected, rtol=np.spacing(np.float32(39)))


def test_non_abstention_is_an_alias_of_reservation():
    assert selective.non_abstention is selective.reservation
    assert "non_abstention" not in selective.SCORES  # it would be reported twice


def test_max_probability_is_reservation_times_softmax_response():
    logits = random_logits()
    product = SCORES["reservation"](logits) * SCORES["softmax_response"](logits)
    assert_allclose(SCORES["max_probability"](logits), product, rtol=1e-5)


@pytest.mark.parametrize("p", POWERS[:-1])
def test_pnorm_follows_the_equation_for_every_p(p):
    logits = random_logits(scale=100.0)
    expected = [pnorm(z[:-1], p) for z in np.asarray(logits, np.float64)]
    assert_allclose(jax.jit(partial(max_logit_pnorm, p=p))(logits), expected, rtol=1e-5)


@pytest.mark.slow
def test_infinite_p_divides_by_the_largest_modulus():
    classes = np.asarray(random_logits()[:, :-1], np.float64)
    centred = classes - classes.mean(axis=1, keepdims=True)
    expected = centred.max(axis=1) / np.abs(centred).max(axis=1)
    assert_allclose(max_logit_pnorm(random_logits(), p=np.inf), expected, rtol=1e-5)


@pytest.mark.parametrize("p", [0.5, np.inf])
def test_pnorm_has_the_gradient_of_its_equation_also_at_a_logit_of_the_mean(p):
    logits = np.array([-3.0, 0.0, 1.0, 2.0])  # the second is the mean, of which 0^p has no gradient

    def equation(z):
        centred = z - z.mean()
        size = np.abs(centred).max() if p == np.inf else np.sum(np.abs(centred) ** p) ** (1 / p)
        return centred.max() / size

    gradient = jax.grad(partial(selective.max_logit_pnorm, p=p, abstention=False))(
        jnp.asarray(logits, jnp.float32)
    )
    assert np.isfinite(gradient).all()
    step = np.array([1.0, 0.0, -2.0, 1.0]) * 2.0**-13  # it keeps the mean, and the second at it
    difference = equation(logits + step) - equation(logits - step)
    assert_allclose(2 * np.dot(gradient, step), difference, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_p_may_be_traced_and_vmapped():
    logits = random_logits()
    score = jax.jit(lambda p: max_logit_pnorm(logits, p=p))
    expected = [[pnorm(z[:-1], p) for z in np.asarray(logits, np.float64)] for p in POWERS[:-1]]
    assert_allclose([score(np.float32(p)) for p in POWERS[:-1]], expected, rtol=1e-5)
    assert_allclose(jax.vmap(score)(np.float32(POWERS[:-1])), expected, rtol=1e-5)


@pytest.mark.parametrize("p", POWERS)
def test_equal_logits_have_pnorm_score_zero(p):
    # The computed mean of ten times 0.1 is not 0.1: this rounding error must not change the score.
    equal = np.tile(np.float32([[0.0], [0.1], [-3.3], [1e4]]), 11)
    different = np.array(random_logits(equal.shape))
    score = jax.jit(partial(max_logit_pnorm, p=p))
    assert_array_equal(score(equal), 0)
    assert np.all(score(different) > 0)


@each_dtype
def test_predict_never_returns_abstention(dtype):
    logits = random_logits(dtype=dtype).at[:, -1].set(100)
    expected = np.argmax(np.asarray(logits, np.float64)[:, :-1], axis=-1)
    for function in (predict, jax.jit(predict), jax.vmap(predict)):
        predicted = function(logits)
        assert jnp.issubdtype(predicted.dtype, jnp.integer)
        assert_array_equal(predicted, expected)


@pytest.mark.parametrize("function", [*PLAIN.values(), predict])
def test_bad_logits_are_rejected(function):
    with pytest.raises(InputError, match=r"\(5, 2\).*k >= 3"):
        function(jnp.zeros((5, 2)))
    with pytest.raises(InputError, match=r"\(\)"):
        function(jnp.zeros(()))
    with pytest.raises(TypeError, match="int32"):
        function(jnp.zeros((5, 3), jnp.int32))


@pytest.mark.parametrize("p", [0, -1.0, np.nan])
def test_p_out_of_range_raises_an_error_with_its_value(p):
    with pytest.raises(InputError, match=f"p {p} "):
        max_logit_pnorm(jnp.zeros(4), p=p)


NEEDS_ABSTENTION = ["reservation", "reservation_log_odds", "combination"]
CLASSES_ONLY = [name for name in selective.SCORES if name not in NEEDS_ABSTENTION]


@pytest.fixture(scope="module")
def digits():
    """A classifier of scikit-learn: it, its test images, their labels and its [n, 10] outputs."""
    images, labels = load_digits(return_X_y=True)
    classifier = LogisticRegression(max_iter=2000).fit(images[:1200] / 16, labels[:1200])
    test = images[1200:] / 16
    return classifier, test, labels[1200:], classifier.decision_function(test)


def test_class_only_logits_of_scikit_learn_give_its_predictions(digits):
    classifier, images, labels, outputs = digits
    assert outputs.shape[1] == 10
    predicted = np.asarray(selective.predict(outputs, abstention=False))
    assert_array_equal(predicted, classifier.predict(images))
    accuracy = np.mean(predicted == labels)
    assert accuracy == classifier.score(images, labels)
    # Taking the last class for abstention, as every score did, loses all nines.
    assert np.mean(np.asarray(predict(outputs)) == labels) < accuracy - 0.05
    response = selective.softmax_response(outputs, abstention=False)
    assert_allclose(response, classifier.predict_proba(images).max(axis=1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES_ONLY)
def test_scores_without_abstention_are_those_of_an_abstention_logit_of_minus_infinity(name):
    logits = random_logits((40, 5))
    expected = SCORES[name](selective.append_abstention(np.asarray(logits)))
    score = jax.jit(partial(selective.SCORES[name], abstention=False))
    assert_allclose(score(logits), expected, rtol=1e-6)
    assert_allclose(jax.jit(jax.vmap(score))(logits), expected, rtol=1e-6)


@pytest.mark.parametrize("function", [*selective.SCORES.values(), selective.predict])
@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_scores_without_a_statement_about_the_last_column_are_refused(function, wrong):
    message = f"abstention is {wrong}: pass abstention=True .*abstention=False if all columns"
    with pytest.raises(InputError, match=message):
        function(random_logits(), abstention=wrong)
    with pytest.raises(InputError, match="abstention is None"):
        jax.jit(function)(random_logits())


@pytest.mark.parametrize("name", [*NEEDS_ABSTENTION, "non_abstention"])
def test_scores_of_the_abstention_column_refuse_logits_without_it(name):
    read = "reservation" if name == "non_abstention" else name
    with pytest.raises(InputError, match=f"{read} reads the abstention column"):
        getattr(selective, name)(random_logits(), abstention=False)


@pytest.mark.parametrize("name", selective.SCORES)
def test_score_of_a_masked_class_is_that_of_the_other_classes(name):
    def total(logits):
        confidence = PLAIN[name](logits)
        return confidence.sum(), confidence

    score = jax.jit(jax.grad(total, has_aux=True))
    others = np.asarray(random_logits((40, 5)))
    masked = np.insert(others, 2, -np.inf, axis=1)
    (gradient, confidence), (of_others, expected) = score(masked), score(others)
    assert_allclose(confidence, expected, rtol=2e-6, atol=1e-6)
    assert_allclose(gradient, np.insert(of_others, 2, 0, axis=1), rtol=1e-5, atol=1e-6)
    one_left = np.array(masked)
    one_left[:, 1:-1] = -np.inf
    assert not np.isnan(score(one_left)[1]).any()


@pytest.mark.parametrize("name", selective.SCORES)
def test_score_without_a_value_is_nan_which_metrics_refuse(name):
    undefined = [[np.nan, 0.0], [np.inf, 0.0], [np.inf, -np.inf], [-np.inf, -np.inf]]
    logits = np.array([*([*classes, 0.0] for classes in undefined), [1.0, 0.0, 0.0]], np.float32)
    confidence = np.asarray(SCORES[name](logits))
    assert np.isnan(confidence).tolist() == [True, True, True, True, False]
    with pytest.raises(InputError, match="confidence must not be NaN"):
        selective.aurc(confidence, [True, False, True, False, True])


@pytest.mark.parametrize("name", selective.SCORES)
@pytest.mark.parametrize("abstention", [np.inf, np.nan])
def test_abstention_without_a_value_gives_nan_in_the_scores_that_read_it(name, abstention):
    score = jax.jit(partial(selective.SCORES[name], abstention=True))
    classes = [1.0, 2.0, 0.0]
    other, changed = score(jnp.array([*classes, 5.0])), score(jnp.array([*classes, 0.0]))
    actual = score(jnp.array([*classes, abstention]))
    assert np.isnan(actual) if other != changed else actual == other


def test_two_class_columns_are_enough_without_abstention():
    assert selective.predict(jnp.array([[0.0, 1.0]]), abstention=False) == 1
    with pytest.raises(InputError, match=r"\(1, 1\).*k >= 2"):
        selective.predict(jnp.array([[0.0]]), abstention=False)


@pytest.mark.slow
def test_p_of_each_example_gives_the_score_of_that_example():
    logits, powers = np.asarray(random_logits((3, 4))), np.float32([1.5, 2.0, 8.0])  # as classes
    score = jax.jit(max_logit_pnorm)
    expected = [score(row, p=p) for row, p in zip(logits, powers, strict=True)]
    assert_allclose(score(logits, p=powers), expected, rtol=1e-6)
    for shape in ((3, 1), (4,)):
        with pytest.raises(InputError, match=r"p of shape .*allow a scalar or one value per"):
            max_logit_pnorm(logits, p=jnp.full(shape, 2.0))
