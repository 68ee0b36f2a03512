# SPDX-License-Identifier: Apache-2.0
"""How one heart's waves differ from the mean heart's, within normal limits."""

from dataclasses import dataclass
from typing import Any

import numpy as np


# Mean level of ST (mV) in I, II, V1-V6 of healthy adults, and its spread: the J point of V2-V3 lies high.
ST_LEVEL = np.array([0.01, 0.012, 0.03, 0.085, 0.065, 0.035, 0.02, 0.012])
ST_SPREAD = np.array([0.022, 0.022, 0.025, 0.05, 0.05, 0.04, 0.03, 0.025])
ST_LOWEST = np.array([-0.035, -0.035, -0.03, -0.02, -0.02, -0.025, -0.03, -0.03])
ST_HIGHEST = np.array([0.06, 0.06, 0.09, 0.165, 0.165, 0.085, 0.07, 0.06])


@dataclass(frozen=True)
class Person:
    """
    Factors and shifts of one person's waves; all of `variety` 0 leave the mean heart as it is.

    Args:
        sharpness (`float`): of the waves of QRS, 1 for a squared sine.
        delays (`np.ndarray`): (8,) shift of the QRS waves in a lead, in shares of the QRS.
        notch_places, notches (`np.ndarray`): (2,) and (8, 2), places in the QRS and heights in shares of it.
        turn (`float`): chest leads by which the transition lies farther to the left.
        chest_r, chest_s, chest_t, chest_p (`np.ndarray`): (6,) factors.
        q_size, s_size, q_turn, s_turn (`float`): factors and degrees of the frontal Q and S.
        st (`np.ndarray`): (8,) level of ST in mV.
        t_v1 (`float`): shift of T in V1 in mV.
        t_delay, t_rise (`float`): shift of the peak of T in ms, and how steeply T rises.
        p_size, p_turn (`float`): factor and degrees of P.
        breathing (`float`): share by which QRS grows and shrinks with it.
    """

    sharpness: float
    delays: np.ndarray
    notch_places: np.ndarray
    notches: np.ndarray
    turn: float
    chest_r: np.ndarray
    chest_s: np.ndarray
    chest_t: np.ndarray
    chest_p: np.ndarray
    q_size: float
    s_size: float
    q_turn: float
    s_turn: float
    st: np.ndarray
    t_v1: float
    t_delay: float
    t_rise: float
    p_size: float
    p_turn: float
    breathing: float


def draw_person(variety: float, rng: np.random.Generator) -> Person:
    """Draws the shape of one person's waves."""

    def near(spread: float, size: int | tuple[int, ...] | None = None) -> Any:
        return variety * np.clip(rng.normal(0, spread, size), -2.2 * spread, 2.2 * spread)

    early = rng.lognormal(0, 0.4)  # repolarization, the same in all leads
    st = np.clip(ST_LEVEL * early + rng.normal(0, ST_SPREAD), ST_LOWEST, ST_HIGHEST)
    return Person(
        sharpness=1 + variety * rng.uniform(0.2, 1.5),
        delays=near(0.02, 8),
        notch_places=rng.uniform(0.3, 0.75, 2),
        notches=near(0.03, (8, 2)),
        turn=near(0.35),
        chest_r=np.exp(near(0.25, 6)),
        chest_s=np.exp(near(0.25, 6)),
        chest_t=np.exp(near(0.2, 6)),
        chest_p=np.exp(near(0.25, 6)),
        q_size=np.exp(near(0.5)),
        s_size=np.exp(variety * 0.2 + near(0.45)),
        q_turn=near(25),
        s_turn=near(40),
        st=variety * st,
        t_v1=near(0.1),
        t_delay=near(6),
        t_rise=1.7 * np.exp(near(0.25)),
        p_size=np.exp(near(0.2)),
        p_turn=near(12),
        breathing=0.02 + variety * rng.uniform(0, 0.06),
    )


def shift_leads(heights: np.ndarray, turn: float) -> np.ndarray:
    """Heights (6,) in V1-V6 if each electrode lay `turn` interspaces farther to the right."""
    places = np.arange(6)
    return np.interp(places - turn, places, heights)
