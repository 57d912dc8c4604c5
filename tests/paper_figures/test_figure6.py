"""The six environments: landed pictures, one for each, laid out under their ids."""

from __future__ import annotations

import numpy as np

from analysis.drawing.portraits import NAMES
from paper_figures import figure6


def test_there_is_a_picture_of_each_environment_and_no_two_are_alike() -> None:
    pictures = figure6.load()
    assert tuple(pictures) == NAMES
    shapes = {picture.shape[:2] for picture in pictures.values()}
    assert shapes == {(240, 320)}
    stacked = np.stack([picture[..., :3].ravel() for picture in pictures.values()])
    distances = np.abs(stacked[:, None] - stacked).mean(axis=2)
    assert distances[~np.eye(6, dtype=bool)].min() > 0.01
