"""The joint probability of a mineral class and a gem of it."""

import numpy as np

from gemmodel.models.joint_probability import JointProbability


def test_a_gem_has_the_probability_of_its_mineral_class_times_its_softmax_within_the_class() -> None:
    parent_probs = np.array([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]], np.float32)
    scores = np.array([[1.0, -7.0, 3.0, 50.0], [500.0, 0.0, -500.0, -900.0]], np.float32)
    probs = np.asarray(JointProbability(parents=[0, 1, 0, 2])([parent_probs, scores]))
    within = 1 / (1 + np.exp(2))
    np.testing.assert_allclose(probs[0], [0.5 * within, 0.2, 0.5 * (1 - within), 0.3], rtol=1e-5)  # float32
    np.testing.assert_allclose(probs[1], [0, 1, 0, 0], atol=1e-6)  # float32
