"""A small table as shops have it, made up, to try the detectors on: orders, some of them odd."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyod_ae_plugin.storage import atomic_write, check_output

Order = dict[str, Any]

_FIRST_DAY = datetime.datetime(2024, 3, 4)  # a Monday
_DAYS = 12
_COUNTRIES = {"DE": 0.5, "FR": 0.3, "NL": 0.2}
_CHANNELS = {"web": 0.6, "app": 0.4}


def orders(n: int = 3_000, n_odd: int = 24, seed: int = 0) -> list[Order]:
    """Make up orders, in the order of time.

    Amounts grow with the number of items, hardly anybody orders at night, and the age of one
    customer in twelve is unknown. In an odd order one thing is otherwise.

    Parameters
    ----------
    n : int, default=3000
        Number of orders.
    n_odd : int, default=24
        Number of odd ones among them; their ``is_fraud`` is 1.
    seed : int, default=0
        The same seed makes the same orders.

    Returns
    -------
    list of dict
        With ``order_id``, ``created_at``, ``country``, ``channel``, ``items``, ``amount``, ``age``
        and ``is_fraud``. An unknown age is None.

    Examples
    --------
    >>> from pyod_ae_plugin.demo import orders
    >>> made = orders(100, 3)
    >>> len(made), sum(order["is_fraud"] for order in made)
    (100, 3)
    """
    rng = np.random.default_rng(seed)
    made = [_usual(rng) for _ in range(n)]
    kinds = list(ODD.values())
    for k, i in enumerate(rng.choice(n, n_odd, replace=False)):
        kinds[k % len(kinds)](made[i], rng)
        made[i]["is_fraud"] = 1
    made.sort(key=lambda order: order["created_at"])
    return [{"order_id": f"A{100_000 + 7 * i}", **order} for i, order in enumerate(made)]


def _usual(rng: np.random.Generator) -> Order:
    day, minute, second = (int(rng.integers(most)) for most in (_DAYS, 60, 60))
    hour = int(np.clip(rng.normal(14, 2.5), 6, 22))
    created = _FIRST_DAY + datetime.timedelta(day, second, minutes=minute, hours=hour)
    channel = str(rng.choice(list(_CHANNELS), p=list(_CHANNELS.values())))
    items = 1 + int(rng.poisson(2))
    return {
        "created_at": created,
        "country": str(rng.choice(list(_COUNTRIES), p=list(_COUNTRIES.values()))),
        "channel": channel,
        "items": items,
        "amount": round(float(items * 24 * np.exp(rng.normal(0, 0.25))), 2),
        "age": None if rng.random() < 1 / 12 else int(np.clip(rng.normal(41, 12), 18, 88)),
        "is_fraud": 0,
    }


def _costs_too_much(order: Order, rng: np.random.Generator) -> None:
    order["amount"] = round(order["amount"] * float(rng.uniform(12, 18)), 2)


def _has_too_many_items(order: Order, rng: np.random.Generator) -> None:
    order["items"] = int(rng.integers(28, 45))


def _comes_from_elsewhere(order: Order, rng: np.random.Generator) -> None:
    order["country"] = str(rng.choice(["KY", "VU", "SC"]))


def _is_made_at_night(order: Order, rng: np.random.Generator) -> None:
    order["created_at"] = order["created_at"].replace(hour=int(rng.integers(1, 4)))


# What is odd about an order, by the column that shows it.
ODD: dict[str, Callable[[Order, np.random.Generator], None]] = {
    "amount": _costs_too_much,
    "items": _has_too_many_items,
    "country": _comes_from_elsewhere,
    "created_at": _is_made_at_night,
}


def write_orders(path: Path) -> int:
    """Write the orders to a CSV file, and return how many these are."""
    check_output(path)
    made = orders()
    with atomic_write(path) as new, new.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    return len(made)
