"""Write the scores that later versions are compared with by tests/test_earlier_scores.py.

Run it with the code whose scores are to stay, and only where scores change on purpose::

    PYTHONPATH=<that code> python tests/data/make_scores.py
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_earlier_scores import CASES, N_FEATURES, N_NEW, N_TRAINED, SCORES, scores_of


def correlated_rows() -> np.ndarray:
    """Draw rows in units of very different size, a tenth of them outliers."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(N_TRAINED + N_NEW, N_FEATURES))
    rows[:, 2:] = rows[:, :2] + 0.3 * rows[:, 2:]
    rows[::10] = generator.uniform(-4, 4, size=rows[::10].shape)
    return (rows * [1, 20, 0.1, 1] + [0, 5, 0, 50]).round(6)


def main() -> None:
    """Write the rows and the scores, by eight digits as float32 has them."""
    rows = correlated_rows()
    scores = {case: [float(f"{score:.8g}") for score in scores_of(case, rows)] for case in CASES}
    lines = [f"  {json.dumps(case)}: {json.dumps(values)}" for case, values in scores.items()]
    SCORES.write_text(
        f'{{"rows": {json.dumps(rows.tolist())},\n"scores": {{\n' + ",\n".join(lines) + "\n}}\n"
    )


if __name__ == "__main__":
    main()
