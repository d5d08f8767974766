"""A detector with a parameter of its own."""

from pyod_ae_plugin import AutoEncoder


class TiedAutoEncoder(AutoEncoder):
    """Outlier detection by an autoencoder with tied weights.

    Parameters
    ----------
    latent_dim : int, default=4
        Width of the latent code.
    contamination, epoch_num, novelty, device, random_state, verbose
        As :class:`pyod_ae_plugin.AutoEncoder` has them.
    """

    def __init__(
        self,
        latent_dim: int = 4,
        contamination: float = 0.1,
        epoch_num: int | None = None,
        novelty: bool = False,
        device: str | None = None,
        random_state: int | None = 42,
        verbose: int = 1,
    ) -> None:
        super().__init__(
            contamination=contamination,
            epoch_num=epoch_num,
            novelty=novelty,
            device=device,
            random_state=random_state,
            verbose=verbose,
            network="tied",
            score_head="scaled_l1",
        )
        self.latent_dim = latent_dim
