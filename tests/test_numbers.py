"""What values may be: scales, tails, constants, overflow, and kinds of arrays; docs/numbers.md."""

import warnings
from functools import cache

import numpy as np
import pytest
from each import DETECTORS, EACH

from pyod_ae_plugin import AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.scoring.module import HIGHEST_SCORE

LARGEST = np.finfo(np.float64).max
NAMES = ["AutoEncoder", "VAE", "AutoEncoderEnsemble"]
HEADS = ["euclidean", "mahalanobis", "joint_mahalanobis", "nearest_neighbor"]
HEADS_OF_ONE = [*HEADS, "nll"]
HEADS_OF_VAE = [*HEADS_OF_ONE, "reconstruction_probability", "elbo"]

# AutoEncoder and one head suffice where time counts.
EACH_WITH_EVERY_HEAD = pytest.mark.parametrize(
    ("Detector", "head"),
    [
        pytest.param(
            Detector,
            head,
            id=f"{name}-{head}",
            marks=[] if (name, head) == ("AutoEncoder", "nearest_neighbor") else pytest.mark.slow,
        )
        for Detector, name, heads in zip(
            DETECTORS, NAMES, [HEADS_OF_ONE, HEADS_OF_VAE, HEADS], strict=True
        )
        for head in heads
    ],
)


def normal(n=80, n_features=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n_features))


def assert_sane(detector, X):
    """All that fit made of finite rows is finite, and fits together."""
    assert np.isfinite(detector.decision_scores_).all()
    assert np.isfinite(detector.threshold_)
    assert np.array_equal(detector.labels_, detector.decision_scores_ > detector.threshold_)
    assert np.array_equal(detector.decision_function(X), detector.decision_scores_)
    assert_all_answers_are_finite(detector, X)


def assert_all_answers_are_finite(detector, X):
    for method in ("predict_proba", "transform", "reconstruct"):
        assert np.isfinite(getattr(detector, method)(X)).all(), method
    for method in ("predict_confidence", "explain"):
        assert np.isfinite(getattr(detector, method)(X[-5:])).all(), method
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Posterior collapse")  # of a few steps
        probabilities = detector.predict_proba(X, method="unify")
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


# -------------------------------------------------------------------------------- tables

Z = normal()
RNG = np.random.default_rng(1)
TABLES = {
    "mixed scales": Z * [1e-30, 1e-10, 1e10, 1e30],
    "tiny": Z * 1e-300,
    "subnormal": Z * 1e-310,
    "huge": Z / np.abs(Z).max() * LARGEST,
    "largest and its negative": np.where(Z > 0, LARGEST, -LARGEST),
    "largest in one row": np.vstack([Z, np.full((1, 4), LARGEST)]),
    "largest in one cell": np.vstack([Z, [[LARGEST, 0, 0, 0]]]),
    "offset 1e7": Z + 1e7,
    "offset 1e30": 1e30 + Z * 1e16,
    "units in the last place": 1e20 + RNG.integers(0, 3, (80, 4)) * 16384.0,
    "neighbors of the largest": np.array([[LARGEST], [np.nextafter(LARGEST, 0)]] * 30),
    "Cauchy": RNG.standard_cauchy((80, 4)),
    "log-normal": RNG.lognormal(0, 5, (80, 4)),
    "two values": np.where(Z > 0, 1.0, 0.0),
    "one row": Z[:1],
    "two rows": Z[:2],
}
EQUAL_ROWS = {
    "ones": np.ones((50, 3)),
    "zeros": np.zeros((50, 3)),
    "a tenth": np.full((50, 3), 0.1),
    "1e-300": np.full((50, 3), 1e-300),
    "1e300": np.full((50, 3), 1e300),
    "copies of a row": np.repeat(Z[:1], 50, axis=0),
    "one row of the largest": np.full((1, 3), LARGEST),
}


@EACH_WITH_EVERY_HEAD
@pytest.mark.parametrize("kind", TABLES)
def test_any_finite_table_can_be_fitted(quick, Detector, head, kind):
    X = TABLES[kind]
    assert_sane(quick(Detector, score_head=head, epoch_num=1).fit(X), X)


@EACH_WITH_EVERY_HEAD
@pytest.mark.parametrize("kind", EQUAL_ROWS)
def test_equal_rows_get_one_score_and_are_inliers(quick, Detector, head, kind):
    X = EQUAL_ROWS[kind]
    detector = quick(Detector, score_head=head, epoch_num=1).fit(X)
    assert_sane(detector, X)
    assert len(set(detector.decision_scores_)) == 1
    assert not detector.labels_.any()
    assert np.array_equal(detector.predict_proba(X, method="unify")[:, 1], np.zeros(len(X)))


@EACH
def test_copies_are_scored_as_the_row_that_they_are_copies_of(quick, Detector):
    X = np.repeat(Z, 3, axis=0)
    detector = quick(Detector).fit(X)
    assert_sane(detector, X)
    assert np.array_equal(detector.decision_function(Z), detector.decision_scores_[::3])


@EACH
@pytest.mark.parametrize("tails", ["Cauchy", "log-normal"])
def test_under_heavy_tails_the_farthest_row_is_an_outlier(quick, Detector, tails):
    X = TABLES[tails]
    detector = quick(Detector, epoch_num=20).fit(X)
    farthest = np.linalg.norm((X - X.mean(0)) / X.std(0), axis=1).argmax()
    assert detector.labels_[farthest] == 1


# -------------------------------------------------------------------------------- scales


@EACH
def test_powers_of_two_as_units_change_no_bit(quick, Detector):
    units = 2.0 ** np.array([-90, -10, 20, 60])
    plain, scaled = quick(Detector).fit(Z), quick(Detector).fit(Z * units)
    assert np.array_equal(plain.decision_scores_, scaled.decision_scores_)
    fresh = normal(seed=2) * 3
    assert np.array_equal(plain.decision_function(fresh), scaled.decision_function(fresh * units))


@EACH_WITH_EVERY_HEAD
@pytest.mark.parametrize(
    ("units", "offset"),
    [
        ([1e-30, 1e-10, 1e10, 1e30], 0),
        ([1e-300, 1e-200, 1e200, 1e300], 0),
        ([1, 1, 1, 1], 1e7),
        ([1e20, 1e22, 1e24, 1e26], 1e30),
    ],
    ids=["1e-30 to 1e30", "1e-300 to 1e300", "offset 1e7", "offset 1e30"],
)
def test_units_and_offsets_do_not_matter(quick, Detector, head, units, offset):
    def moved(X):
        return X * units + offset

    plain = quick(Detector, score_head=head).fit(Z)
    other = quick(Detector, score_head=head).fit(moved(Z))
    assert np.allclose(other.decision_scores_, plain.decision_scores_, rtol=1e-3, atol=1e-3)
    fresh = normal(seed=2) * 3
    expected = plain.decision_function(fresh)
    assert np.allclose(other.decision_function(moved(fresh)), expected, rtol=1e-3, atol=1e-3)


@EACH
def test_a_value_beyond_float32_is_as_far_as_it_is_in_its_own_units(quick, Detector):
    """1e40 is no overflow where the standard deviation is 1e39."""
    scaled = quick(Detector).fit(Z * 1e39)
    fresh = normal(seed=2) * 5
    assert np.allclose(
        scaled.decision_function(fresh * 1e39),
        quick(Detector).fit(Z).decision_function(fresh),
        rtol=1e-3,
    )
    far = np.zeros((2, 4))
    far[0, 0], far[1, 1] = 1e12, 1e9
    mixed = quick(Detector).fit(Z * [1, 1e30, 1, 1])
    nearer_in_larger_units, farther = mixed.decision_function(far * [1, 1e30, 1, 1])[::-1]
    assert nearer_in_larger_units < farther < HIGHEST_SCORE


# ----------------------------------------------------------------------------- constants


@EACH_WITH_EVERY_HEAD
@pytest.mark.parametrize("value", [1e-30, 0.1, 1.0, 1e12])
def test_a_constant_that_changes_is_an_anomaly(quick, Detector, head, value):
    X = np.column_stack([Z[:, :3], np.full(len(Z), value)])
    detector = quick(Detector, score_head=head, epoch_num=20).fit(X)
    assert_sane(detector, X)

    def scores_with(other):
        return detector.decision_function(np.column_stack([Z[:, :3], np.full(len(Z), other)]))

    by_change = [detector.decision_scores_]
    by_change += [scores_with(value * change) for change in (100, 1000, 10_000)]
    assert (np.diff(by_change, axis=0) > 0).all()
    assert by_change[1].min() > by_change[0].max()


@EACH
def test_zeros_that_become_something_are_an_anomaly(quick, Detector):
    X = np.column_stack([Z[:, :3], np.zeros(len(Z))])
    detector = quick(Detector, epoch_num=20).fit(X)
    X[:, 3] = 10
    assert detector.decision_function(X).min() > detector.decision_scores_.max()


@EACH
@pytest.mark.parametrize("value", [0.0, 0.1, 1e7, -1e300])
def test_a_constant_feature_does_not_disturb_the_others(quick, Detector, value):
    """Its weights are drawn with the others, so scores are not those of a fit without it."""
    X = np.column_stack([Z, np.full(len(Z), value)])
    of_zero = np.column_stack([Z, np.zeros(len(Z))])
    detector, expected = quick(Detector).fit(X), quick(Detector).fit(of_zero)
    scores = detector.decision_scores_
    assert np.allclose(scores, expected.decision_scores_, rtol=1e-4, atol=1e-4)


@EACH_WITH_EVERY_HEAD
def test_features_that_are_constant_only_where_scored_are_nothing_special(quick, Detector, head):
    detector = quick(Detector, score_head=head).fit(Z)
    some = Z.copy()
    some[7:] = Z[3]
    scores = detector.decision_function(some)
    assert np.array_equal(scores[:7], detector.decision_scores_[:7])
    assert (scores[7:] == detector.decision_scores_[3]).all()


# ------------------------------------------------------------------------------ overflow

FAR = [1e46, 1e100, 1e200, LARGEST]


@EACH_WITH_EVERY_HEAD
@pytest.mark.parametrize("fitted_to", [1.0, 1e-25, 1e25], ids="fitted to {}".format)
def test_what_overflows_ties_at_the_highest_score(quick, Detector, head, fitted_to):
    detector = quick(Detector, score_head=head, epoch_num=1).fit(Z * fitted_to)
    far = np.zeros((len(FAR) + 1, 4))
    far[:-1, 1] = FAR
    far[-1] = -LARGEST
    X = np.vstack([Z * fitted_to, far])
    scores = detector.decision_function(X)
    assert np.isfinite(scores).all()
    assert (scores[len(Z) :] == HIGHEST_SCORE).all()
    assert (scores[: len(Z)] < 1e6).all()
    assert (detector.predict(X)[len(Z) :] == 1).all()
    assert_all_answers_are_finite(detector, X)
    assert (detector.predict_proba(X)[len(Z) :, 1] == 1).all()
    assert (detector.explain(far[:-1]).argmax(axis=1) == 1).all()


@EACH_WITH_EVERY_HEAD
def test_along_a_ray_the_highest_score_comes_last(quick, Detector, head):
    detector = quick(Detector, score_head=head, epoch_num=20).fit(Z)
    scores = detector.decision_function(np.logspace(0, 307, 308)[:, None] * [1, -2, 0, 0.5])
    highest = scores == HIGHEST_SCORE
    assert highest.any()
    assert highest[highest.argmax() :].all()
    before = scores[~highest]
    assert before[-1] == before.max()
    if head not in ("reconstruction_probability", "elbo"):  # the posterior's spread counts there
        assert (np.diff(before[1:]) >= 0).all()


@EACH
def test_far_rows_have_the_least_p_value_and_the_last_rank(quick, Detector):
    detector = quick(Detector, held_out_threshold=0.5).fit(Z)
    p_values = detector.predict_p_value(np.vstack([Z, np.full((1, 4), 1e300)]))
    assert p_values[-1] == p_values.min() == 1 / (1 + len(Z) // 2)
    ranks = detector._predict_rank(np.vstack([Z, np.full((1, 4), 1e300)]), normalized=True)
    assert ranks[-1] == ranks.max() == 1


@EACH
def test_held_out_rows_may_overflow(quick, Detector):
    """A row is 1e300 away where it is held out, and where it is not it sets the scale."""
    n_highest = 0
    for i in range(5):
        X = Z[:10].copy()
        X[i] = 1e300
        detector = quick(Detector, held_out_threshold=0.5).fit(X)
        assert_sane(detector, X)
        n_highest += detector.decision_scores_[i] == HIGHEST_SCORE
        assert detector.decision_scores_.argmax() == i
    assert n_highest > 0


@pytest.mark.parametrize("combination", ["average", "maximization", "median", "aom", "moa"])
def test_members_of_which_one_overflows(quick, combination):
    detector = quick(AutoEncoderEnsemble, n_estimators=5, combination=combination).fit(Z)
    scores = detector.decision_function(np.logspace(15, 25, 101)[:, None] * np.ones(4))
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] == HIGHEST_SCORE


@EACH
@pytest.mark.parametrize("value", [1e16, 1e25, 1e39, 1e300])
def test_without_scaling_what_float32_cannot_train_on_is_refused(quick, Detector, value):
    detector = quick(Detector, preprocessing=False).fit(Z)
    X = Z.copy()
    X[7, 2] = value
    for fit in (detector.fit, lambda X: detector.fit_batches([Z, X]), detector.partial_fit):
        with pytest.raises(ValueError, match="preprocessing=True"):
            fit(X)
    assert np.array_equal(detector.decision_function(Z), detector.decision_scores_)
    X[7, 2] = 1e14
    assert_sane(quick(Detector, preprocessing=False).fit(X), X)


@EACH
def test_continued_fits_refuse_what_overflows_in_the_units_of_the_first(quick, Detector):
    detector = quick(Detector).fit(Z)
    with pytest.raises(ValueError, match="earlier fit is continued"):
        detector.partial_fit(Z * 1e25)
    if Detector is DETECTORS[2]:
        with pytest.raises(ValueError, match="earlier fit is continued"):
            detector.set_params(warm_start=True, n_estimators=3).fit(Z * 1e25)
    assert np.array_equal(detector.decision_function(Z), detector.decision_scores_)


# ------------------------------------------------------------------------ kinds of arrays


def of_kinds(X, folder):
    """The same small integers in other arrays."""
    kinds = {
        name: X.astype(name)
        for name in ["float32", "float16", "int64", "int32", "int8", ">f8", ">f4", ">i2", "g"]
    }
    kinds |= {f"not negative {name}": np.abs(X).astype(name) for name in ["uint8", "uint16", "u8"]}
    padded = np.zeros((2 * len(X), 3 * X.shape[1]))
    padded[::2, 1::3] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    unaligned = np.zeros(X.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(X.shape)
    unaligned[:] = X
    np.save(folder / "rows.npy", X)
    np.save(folder / "big-endian.npy", X.astype(">f8"))
    return {
        **kinds,
        "bool": X > 0,
        "by columns": np.asfortranarray(X),
        "strided": padded[::2, 1::3],
        "columns backwards": np.ascontiguousarray(X[:, ::-1])[:, ::-1],
        "rows backwards": np.ascontiguousarray(X[::-1])[::-1],
        "one row repeated": np.broadcast_to(X[0], X.shape),
        "read-only": read_only,
        "unaligned": unaligned,
        "memory map": np.load(folder / "rows.npy", mmap_mode="r"),
        "big-endian memory map": np.load(folder / "big-endian.npy", mmap_mode="r"),
    }


@pytest.mark.slow
@EACH
def test_the_kind_of_array_changes_no_bit(quick, Detector, tmp_path):
    X = np.random.default_rng(0).integers(-5, 6, size=(70, 4)).astype(np.float64)
    on_plain_rows = quick(Detector, epoch_num=1).fit(X)
    fitted_to_plain = cache(
        lambda plain: quick(Detector, epoch_num=1).fit(np.reshape(np.frombuffer(plain), X.shape))
    )
    for name, other in of_kinds(X, tmp_path).items():
        plain = np.array(other, dtype=np.float64, order="C")
        given = np.array(other, copy=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Posterior collapse")  # of a few steps
            detector = quick(Detector, epoch_num=1).fit(other)
            scores = on_plain_rows.decision_function(other)
            rebuilt = on_plain_rows.reconstruct(other)
            explained = on_plain_rows.explain(other[:3])
        expected = fitted_to_plain(plain.tobytes()).decision_scores_
        assert np.array_equal(detector.decision_scores_, expected), name
        assert np.array_equal(scores, on_plain_rows.decision_function(plain)), name
        assert np.array_equal(rebuilt, on_plain_rows.reconstruct(plain)), name
        assert np.array_equal(explained, on_plain_rows.explain(plain[:3])), name
        assert np.array_equal(other, given), name


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_floats_are_taken_for_what_they_hold(quick, dtype):
    """Also where features are standardised in float64."""
    X = (Z * 3 + 1000).astype(dtype)
    detector = quick(AutoEncoder).fit(X)
    assert np.array_equal(
        detector.decision_scores_, quick(AutoEncoder).fit(X.astype(np.float64)).decision_scores_
    )


@pytest.mark.parametrize(
    ("first", "second"), [("int64", "float16"), ("int64", "float32"), ("uint8", "int8")]
)
def test_batches_of_several_dtypes_lose_nothing(quick, first, second):
    rng = np.random.default_rng(0)
    batches = [
        rng.integers(0, 100 if first == "uint8" else 2**40, size=(60, 3)).astype(first),
        rng.integers(0, 100, size=(60, 3)).astype(second),
    ]
    plain = [batch.astype(np.float64) for batch in batches]
    expected = quick(AutoEncoder).fit_batches(plain).decision_scores_
    assert np.array_equal(quick(AutoEncoder).fit_batches(batches).decision_scores_, expected)
    detectors = quick(AutoEncoder), quick(AutoEncoder)
    for detector, given in zip(detectors, (plain, batches), strict=True):
        for batch in given:
            detector.partial_fit(batch)
    assert np.array_equal(*(detector.decision_scores_ for detector in detectors))
