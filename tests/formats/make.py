"""Writes models of the present format, which every later version must load.

Run once, with the release that brings a format; what is there is never written again.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from pyod_ae_plugin.persistence import FORMAT

from pyod_ae_plugin import VAE, AutoEncoder, AutoEncoderEnsemble
from pyod_ae_plugin.thresholds import MeanStd

HERE = Path(__file__).parent
QUIET = {"epoch_num": 5, "verbose": 0, "device": "cpu"}
DETECTORS = {
    "autoencoder": AutoEncoder(hidden_neuron_list=(4, 2), contamination=MeanStd(2.0), **QUIET),
    "autoencoder.safetensors": AutoEncoder(batch_norm=True, score_head="mahalanobis", **QUIET),
    "vae.safetensors": VAE(
        encoder_neuron_list=[8],
        decoder_neuron_list=[8],
        score_head="elbo",
        novelty=True,
        held_out_threshold=True,
        **QUIET,
    ),
    "ensemble.safetensors": AutoEncoderEnsemble(
        2, hidden_neuron_list=[4, 2], optimizer_params={"weight_decay": 0.0}, **QUIET
    ),
}


def main() -> None:
    """Write the models, rows, and the scores and labels of the rows."""
    folder = HERE / str(FORMAT)
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(80, 4)) * [1, 1e3, 1e-3, 1] + [0, 5, 0, 1e6]
    frame = pd.DataFrame(rows, columns=["a", "b", "ç", "<d>"])
    expected = {"rows": rows}
    for name, detector in DETECTORS.items():
        detector.fit(frame if name == "autoencoder" else rows).save(folder / name)
        scored = frame if name == "autoencoder" else rows
        expected[f"{name} scores"] = detector.decision_function(scored)
        expected[f"{name} labels"] = detector.predict(scored)
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main()
