"""How far a sample has moved away from a reference, as pure functions on arrays.

The population stability index of two lists of shares a and b is the sum of (b - a) ln(b / a): from 0.1 on a moderate
shift, from 0.25 on a large one (Siddiqi, Credit Risk Scorecards, 2006). Those rules are for large samples. Of k bins,
n and m values, the index is about (k - 1) (1 / n + 1 / m) on average where nothing has moved (Yurdakul and Naranjo, New
properties of the population stability index, 2020): with 50 questions in a week and ten bins that is 0.2 already. So it
is taken off here, and each index comes with the p value of a test, as its spread depends on the sample, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.utils.concurrency import one_thread

Floats = NDArray[np.float64]
Counts = NDArray[np.intp]
Vectors = NDArray[np.float32]

#: Clusters of the reference: at most so many, and at least so many texts for each.
_CLUSTERS, _OF_A_CLUSTER = 20, 10
_FEWEST_CLUSTERS = 5
#: More of them find no better clusters, and most of the time goes into them.
_BEGINNINGS = 2
#: The share of the reference that counts as far from all of them.
_FAR = 0.1
#: Bins of numbers: deciles of the reference.
_BINS = 10


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a sample is from the reference: the index without what chance alone brings, and a test's p value."""

    index: float
    p: float


def of_counts(before: Counts, after: Counts) -> Shift:
    """Compare how often each bin was met; the p value is that of the chi-square test of homogeneity."""
    from scipy.stats import chi2_contingency

    met = before + after > 0
    if met.sum() < 2:
        return Shift(0.0, 1.0)
    p = chi2_contingency(np.stack([before[met], after[met]]), correction=False).pvalue
    return Shift(stability_index(before, after), float(p))


def of_numbers(before: Floats, after: Floats) -> Shift:
    """Compare numbers by the deciles of those before; the p value is that of the Kolmogorov-Smirnov test."""
    from scipy.stats import ks_2samp

    # Where many are equal, several deciles are one.
    edges = np.unique(np.quantile(before, np.arange(1, _BINS) / _BINS))
    counts = [np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (before, after)]
    return Shift(stability_index(*counts), float(ks_2samp(before, after, method="asymp").pvalue))


def stability_index(before: Counts, after: Counts) -> float:
    """Return the population stability index without what it is on average where nothing has moved; never below 0."""
    bins, n, m = len(before), before.sum(), after.sum()
    # Half a count more in each bin, or an empty one would make it infinite.
    a, b = ((counts + 0.5) / (total + 0.5 * bins) for counts, total in ((before, n), (after, m)))
    index = float(((b - a) * np.log(b / a)).sum())
    return max(0.0, index - (bins - 1) * float(1 / n + 1 / m))


class Topics:
    """Clusters of the reference's texts, by which other texts are compared with them.

    One half makes the clusters, the other says how often each is met. Counted on those that made them, clusters would
    fit the reference better than anything that comes later, and all of it would look as if it had moved. What is
    farther from all clusters than most of that half is a bin of its own: else a subject that has nothing to do with
    any of them could be spread over all of them, and nobody would notice.
    """

    def __init__(self, reference: Vectors, *, seed: int = 0) -> None:
        from sklearn.cluster import KMeans

        drawn = reference[np.random.default_rng(seed).permutation(len(reference))]
        made_of, counted = drawn[::2], drawn[1::2]
        clusters = max(_FEWEST_CLUSTERS, min(_CLUSTERS, len(made_of) // _OF_A_CLUSTER))
        with one_thread():
            # The same question asked again and again is one point, and there are no more clusters than points.
            clusters = min(clusters, len(np.unique(made_of, axis=0)))
            self._clusters = KMeans(clusters, n_init=_BEGINNINGS, random_state=seed).fit(made_of)
            self._far = float(np.quantile(self._distances(counted).min(axis=1), 1 - _FAR))
            self._met = self._count(counted)

    def shift(self, vectors: Vectors) -> Shift:
        """Compare the topics of the texts with those of the reference."""
        with one_thread():
            return of_counts(self._met, self._count(vectors))

    def _count(self, vectors: Vectors) -> Counts:
        distances = self._distances(vectors)
        found = np.where(distances.min(axis=1) > self._far, self._clusters.n_clusters, distances.argmin(axis=1))
        return np.bincount(found, minlength=self._clusters.n_clusters + 1)

    def _distances(self, vectors: Vectors) -> NDArray[np.float32]:
        """Return how far each text is from each cluster, shape (texts, clusters)."""
        found: NDArray[np.float32] = self._clusters.transform(np.ascontiguousarray(vectors, dtype=np.float32))
        return found
