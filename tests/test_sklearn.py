"""scikit-learn's own checks of estimators."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble

LABELS = "PyOD labels inliers 0 and outliers 1; scikit-learn expects 1 and -1"
EXPECTED_FAILURES = {
    "check_do_not_raise_errors_in_init_or_set_params": (
        "PyOD's BaseDetector refuses a bad contamination in __init__"
    ),
    "check_outliers_fit_predict": LABELS,
    "check_outliers_train": LABELS,
}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        AutoEncoder(epoch_num=2, verbose=0),
        VAE(epoch_num=2, verbose=0),
        AutoEncoderEnsemble(n_estimators=2, epoch_num=2, verbose=0),
    ],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_estimator_check(estimator, check):
    check(estimator)
