"""
Sensor monitoring
=================

Six sensors of a pump report every five minutes. A detector learns from the first days, scores what
comes after, batch by batch, raises alarms and names the sensor to look at. A limit for each sensor
would not do: most values are usual by themselves, but do not go together.

Run it with a simulated pump, with a CSV file, or with one that comes through a pipe. The first
column is the time, the others are sensors::

    python examples/sensor_monitoring.py
    python examples/sensor_monitoring.py --data sensors.csv --output figures
    tail -n +1 -f sensors.csv | python examples/sensor_monitoring.py --data -
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot

from pyod_ae_plugin import AutoEncoder
from pyod_ae_plugin.plots import plot_explanation

parser = argparse.ArgumentParser(description="Score a stream of sensor readings, and alarm.")
parser.add_argument("--data", help="CSV file, or - for standard input; without it, a simulation")
parser.add_argument("--output", type=Path, help="folder for the figures; without it, a window")
parser.add_argument("--fit-days", type=float, default=10, help="to learn from; they must be normal")
options = parser.parse_args()
BATCH = 12  # an hour

# %%
# The stream
# ----------
# The load of the pump follows the hour of the day and drives all sensors.


def simulate() -> pd.DataFrame:
    """Readings of a pump whose pressure sticks, vibration jumps and flow drifts down at last."""
    rng = np.random.default_rng(0)
    time = pd.date_range("2024-03-01", periods=16 * 288, freq="5min")
    hours = np.arange(len(time)) / 12
    load = 1 + 0.4 * np.sin(2 * np.pi * (hours - 8) / 24) + 0.1 * np.sin(2 * np.pi * hours / 5.3)
    outside = 10 + 6 * np.sin(2 * np.pi * (hours - 9) / 24)
    sensors = {
        "flow": 50 * load,
        "pressure": 2 + 1.5 * load**2,
        "current": 8 + 6 * load,
        "vibration": 0.5 + 0.4 * load,
        "motor_temperature": outside + 30 + 15 * load,
        "outside_temperature": outside,
    }
    frame = pd.DataFrame(sensors, index=time)
    frame += rng.normal(size=frame.shape) * 0.03 * frame.std().to_numpy()
    stuck = slice("2024-03-12 14:00", "2024-03-12 21:00")
    frame.loc[stuck, "pressure"] = frame.loc[stuck, "pressure"].iloc[0]
    frame.loc["2024-03-14 03:00":"2024-03-14 03:20", "vibration"] += 0.3
    drift = frame.loc["2024-03-14 20:00":].index
    frame.loc[drift, "flow"] -= np.linspace(0, 25, len(drift))
    return frame


def batches() -> Iterator[pd.DataFrame]:
    """Readings as they come, an hour at a time."""
    if options.data is None:
        return (hour for _, hour in simulate().resample("h"))
    source = sys.stdin if options.data == "-" else options.data
    # The faster engine would wait for more than a batch.
    return pd.read_csv(source, index_col=0, parse_dates=True, chunksize=BATCH, engine="python")


# %%
# Learn
# -----
# A fifth of the readings is held out of training. The threshold is what 1% of them exceed.

stream = batches()
normal = [next(stream)]
until = normal[0].index[0] + pd.Timedelta(days=options.fit_days)
for batch in stream:
    normal.append(batch)
    if batch.index[-1] >= until:
        break
else:
    raise SystemExit(f"The stream ended before {until}; lower --fit-days.")
held_out = {"held_out_threshold": 0.2}
detector = AutoEncoder(novelty=True, contamination=0.01, **held_out, verbose=0)
detector.fit(pd.concat(normal))
print(f"Learned from {sum(map(len, normal))} readings, until {normal[-1].index[-1]}")

# %%
# Watch
# -----
# One reading in a hundred is above the threshold without a fault. An alarm therefore takes three in
# a row, and ends after an hour below. Contributions to the score say which sensor to look at. They
# are counted from the mean reading: a sensor that is stuck at just its mean is not named itself.


class Alarm:
    """On after three readings above the threshold, off after an hour of readings below."""

    def __init__(self) -> None:
        self.on, self.above, self.below = False, 0, 0

    def update(self, exceeds: bool) -> bool:
        """Take a reading in; whether the alarm goes on or off by it."""
        self.above, self.below = (self.above + 1, 0) if exceeds else (0, self.below + 1)
        changes = self.below >= BATCH if self.on else self.above >= 3
        self.on ^= changes
        return changes


alarm, history, states = Alarm(), [], []
seen, to_score = itertools.tee(stream)
for batch, scores in zip(seen, detector.score_batches(to_score), strict=True):
    for i, (time, score) in enumerate(zip(batch.index, scores, strict=True)):
        if alarm.update(score > detector.threshold_):
            sensor = batch.columns[detector.explain(batch[i : i + 1]).argmax()]
            message = f"ALARM, score {score:.2f}, look at {sensor}" if alarm.on else "alarm over"
            print(f"{time}  {message}", flush=True)
        states.append(alarm.on)
    history.append(batch.assign(score=scores))

# %%
# Figures
# -------
# What is normal after all, a new season for one, may be learned with ``partial_fit``.

watched = pd.concat(history)
figure, ax = pyplot.subplots(figsize=(11, 4), layout="constrained")
ax.plot(watched.index, watched["score"], linewidth=0.8)
ax.axhline(detector.threshold_, linestyle="--", color="black", label="threshold")
shade = {"color": "tab:orange", "alpha": 0.4, "transform": ax.get_xaxis_transform()}
ax.fill_between(watched.index, 0, 1, states, label="alarm", **shade)
ax.set(yscale="log", ylabel="Anomaly score", title=f"{len(watched)} readings")
ax.legend()
worst = int(watched["score"].argmax())
why = plot_explanation(detector, watched.drop(columns="score"), worst).figure

if options.output:
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output / "sensor_scores.png")
    why.savefig(options.output / "sensor_explanation.png")
pyplot.show()
