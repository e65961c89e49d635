"""What a model says of labelled images, counted: confusion, accuracy per class, mistakes, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from triptych.show.intervals import Interval, wilson

BINS = 15


@dataclass(frozen=True, eq=False)
class Bins:
    """Images by their confidence, the probability of the class predicted, in BINS bins of equal width; bin k
    holds confidences over k / BINS up to (k + 1) / BINS.
    """

    counts: np.ndarray
    """int (BINS,)."""
    hits: np.ndarray
    """int (BINS,): how many of them were predicted right."""
    confidence: np.ndarray
    """float64 (BINS,): their mean confidence; NaN in an empty bin, as `accuracy`."""

    @property
    def accuracy(self) -> np.ndarray:
        """float64 (BINS,)."""
        with np.errstate(invalid="ignore"):
            return self.hits / self.counts

    @property
    def ece(self) -> float:
        """Expected calibration error: sum over bins of n_k / N |accuracy_k - confidence_k|."""
        full = self.counts > 0
        gap = np.abs(self.accuracy[full] - self.confidence[full])
        return float((self.counts[full] * gap).sum() / self.counts.sum())


@dataclass(frozen=True, eq=False)
class Judged:
    """Probabilities float64 (N, C) of N images, and their labels (N,)."""

    p: np.ndarray
    labels: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """Of equal probabilities the first class, int (N,)."""
        return self.p.argmax(axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """float64 (N,)."""
        return self.p.max(axis=1)

    @property
    def hits(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def accuracy(self) -> float:
        return self.hits / len(self.labels)

    @property
    def interval(self) -> Interval:
        """Wilson's, 95%."""
        return wilson(self.hits, len(self.labels))

    @cached_property
    def confusion(self) -> np.ndarray:
        """How often class r (row) was predicted as class c (column): int (C, C)."""
        classes = self.p.shape[1]
        pairs = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def mistakes(self, most: int) -> np.ndarray:
        """The images predicted wrong with the greatest confidence, the most confident first: rows."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:most]

    def calibration(self) -> Bins:
        """By confidence."""
        place = np.clip(np.ceil(self.confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        counts = np.bincount(place, minlength=BINS)
        hits = np.bincount(place, self.predicted == self.labels, minlength=BINS).astype(np.int64)
        with np.errstate(invalid="ignore"):
            confidence = np.bincount(place, self.confidence, minlength=BINS) / counts
        return Bins(counts, hits, confidence)
