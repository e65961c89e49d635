"""The stand-in: the same bytes everywhere, balanced, coloured like photographs, and no easier than meant."""

import numpy as np
import pytest

from triptych.cifar10 import generated
from triptych.cifar10.dataset import fingerprint

SMALL = "sha256:67220e9d395a2d295c10f19342f93851a30aa7bf6f43341538446f9beb7dba07"
SEED_1 = "sha256:5b00fb69e0b7ed7a54a39c4de2ef0bf22e655acb6f38872a08642d72d5478ed5"
FULL = "sha256:eaf382904f39010d52c07ec8106ceba6387f0c935e30ff7d2fa49dfdc3805158"


@pytest.fixture(scope="module")
def small():
    return generated.generate(0, 2000, 1000)


def test_bytes_are_pinned():
    assert fingerprint(*generated.generate(0, 200, 100)) == SMALL
    assert fingerprint(*generated.generate(1, 200, 100)) == SEED_1


@pytest.mark.slow
def test_full_set_is_pinned():
    arrays = generated.generate()
    assert [a.shape for a in arrays] == [(50_000, 3, 32, 32), (50_000,), (10_000, 3, 32, 32), (10_000,)]
    assert fingerprint(*arrays) == FULL


def test_splitmix64_is_the_published_one():
    # The first outputs of the reference implementation for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert generated._words(1234567, 1, (4,)).tolist() == expected


@pytest.mark.parametrize("sizes", [(1234, 57), (0, 3)])
def test_a_smaller_set_is_a_prefix(small, sizes):
    parts = generated.generate(0, *sizes)
    assert [len(part) for part in parts] == [sizes[0], sizes[0], sizes[1], sizes[1]]
    for part, whole in zip(parts, small, strict=True):
        np.testing.assert_array_equal(part, whole[: len(part)], strict=True)


def test_shapes_dtypes_and_balance(small):
    images, labels, test_images, test_labels = small
    assert images.shape == (2000, 3, 32, 32)
    assert test_images.shape == (1000, 3, 32, 32)
    assert all(a.dtype == np.uint8 and a.flags.c_contiguous for a in small)
    assert np.bincount(labels).tolist() == [200] * 10
    assert np.bincount(test_labels).tolist() == [100] * 10
    assert not np.array_equal(labels[:10], labels[10:20])


def test_pixels_are_spread_like_those_of_photographs(small):
    images = small[0]
    assert 110 < images.mean() < 130
    assert 50 < images.std() < 70
    assert images.min() == 0
    assert images.max() == 255
    horizontal = np.corrcoef(images[..., :-1].ravel(), images[..., 1:].ravel())[0, 1]
    assert horizontal > 0.8  # neighbours agree, as in photographs


def test_train_test_and_seeds_share_no_image(small):
    other = generated.generate(1, 500, 0)[0]
    everything = np.concatenate([small[0], small[2], other]).reshape(-1, 3072)
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_a_linear_model_learns_something_but_little():
    # Ridge regression on the training images: the global cue is there, and it is weak.
    images, labels, test_images, test_labels = generated.generate(0, 10_000, 2000)
    # 8x8 blocks averaged: the cue is smooth, so most of it is kept.
    train, test = (x.reshape(-1, 3, 4, 8, 4, 8).mean((3, 5)).reshape(-1, 48) for x in (images, test_images))
    mean = train.mean(0)
    train, test = train - mean, test - mean
    targets = np.eye(10)[labels] - 0.1
    weights = np.linalg.solve(train.T @ train + np.eye(48), train.T @ targets)
    accuracy = ((test @ weights).argmax(1) == test_labels).mean()
    assert 0.16 < accuracy < 0.45


def test_pixel_by_pixel_the_shapes_cancel():
    # Without the cue a class's mean image tells nothing: each shape is as often bright as dark.
    draws = generated._words(99, 0, (4000, 12))
    contrast = generated._contrast(draws[:, :4]).astype(np.int64)
    assert abs(contrast.mean()) < 4
    assert abs(contrast).min() >= 16
