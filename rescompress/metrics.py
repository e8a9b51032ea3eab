"""Numbers that judge a model: how accurate it is, and how sure we may be of that."""

import math

from rescompress.spec import Proportion


def wilson(proportion: Proportion) -> tuple[float, float]:
    r"""Score interval of a proportion, 95 %, in percent (Wilson 1927).

    With p the observed proportion, n the trials and z = 1.96 the normal quantile, the interval is
    (p + z²/2n ± z·√(p(1 - p)/n + z²/4n²)) / (1 + z²/n). Unlike p ± z·√(p(1 - p)/n) it stays inside
    [0, 100] and does not collapse at p = 0 or p = 1.

    Source:
        E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
        Journal of the American Statistical Association 22 (158), 1927.
    """
    n, z = proportion.total, 1.959963984540054
    if not n:
        return (0.0, 100.0)
    p = proportion.correct / n
    centre = p + z**2 / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return (100 * max(low, 0.0), 100 * min(high, 1.0))
