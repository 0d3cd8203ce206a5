"""The papers' five methods, and what stands beside them, by their names in the configs."""

from pydantic.dataclasses import dataclass

from methods import adv, barycentre, calibrated, d2d, leace, retrain, u2u
from methods.base import Method
from utils.config import RunConfig
from utils.schema import CHECKED

__all__ = ["METHODS", "ExperimentConfig", "Method"]

METHODS: dict[str, Method] = {
    "original": Method("Original"),
    "u2u": u2u.METHOD,
    "d2d": d2d.METHOD,
    "retrain": retrain.METHOD,
    "adv": adv.METHOD,
    "leace": leace.METHOD,
    "barycentre": barycentre.METHOD,
    "calibrated": calibrated.METHOD,
}

# reversed, since the fields of a dataclass's last base come first; mypy can't see bases in a list
_OPTIONS = dict.fromkeys(method.options for method in METHODS.values() if method.options)


@dataclass(frozen=True, config=CHECKED)
class ExperimentConfig(*reversed(_OPTIONS), RunConfig):  # type: ignore[misc]
    """configs/exp_config.json: train a recommender, then unlearn (`python main.py`)."""
