"""Newton's method for many small convex problems at once: one per bootstrap resample.

scipy.optimize has no batched minimiser, and one call per resample made the intervals of a run take longer than its
training. Shapes: R problems, C coefficients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MAX_STEPS = 50
# Logits that one step may move a coefficient: far from the optimum a logistic loss is flat, and a full step overshoots.
LONGEST_STEP = 2.0
# Logits; with millions of games rounding alone moves a coefficient by 1e-9.
TOLERANCE = 1e-8

Derivatives = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def minimize_each(derivatives: Derivatives, start_RC: np.ndarray) -> np.ndarray:
    """Minimise R strictly convex functions and return their optima.

    Args:
        derivatives: gives gradients_RC and Hessians_RCC at coefficients_RC.
        start_RC: where each starts.

    Raises:
        ArithmeticError: some did not converge, which a strictly convex loss does not do.
    """
    point = start_RC.copy()
    for _ in range(MAX_STEPS):
        gradient, hessian = derivatives(point)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        length = np.abs(step).max(axis=1, keepdims=True)
        point -= step * np.minimum(1.0, LONGEST_STEP / np.maximum(length, LONGEST_STEP))
        if length.max() < TOLERANCE:
            return point
    raise ArithmeticError(f"Newton's method still moves by {length.max():.3g} after {MAX_STEPS} steps")
