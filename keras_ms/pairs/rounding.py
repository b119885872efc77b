"""How far apart float32 and exact similarities can lie."""


def rounding_bound(dimension: int) -> float:
    """How far a float32 product of two unit rows can lie from their similarity.

    Summed in any order, fused or not, n products are off by at most γ = nu / (1 − nu) times the sum
    of their sizes, u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, Section 3.1);
    for unit rows that sum is at most 1, by Cauchy and Schwarz.

    Args:
        dimension: n, of the rows.

    Returns:
        float. It holds the rounding of the float64 sum and of the rows' norms too, and numbers so
        small that an accelerator takes them for 0.
    """
    rounding = dimension * 2.0**-24
    if rounding >= 0.5:
        return 4.0  # the bound says nothing any more: every pair is in doubt
    return rounding / (1 - rounding) * (1 + 2.0**-20) + dimension * 2.0**-50
