"""What is published about the official CIFAR-10 files: names, sizes, address and checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

CHANNELS, SIDE = 3, 32
PIXELS = CHANNELS * SIDE * SIDE
CLASSES = 10

TRAIN_FILES = tuple(f"data_batch_{k}" for k in range(1, 6))
TEST_FILE = "test_batch"
FILES = (*TRAIN_FILES, TEST_FILE)

PYTHON_FOLDER = "cifar-10-batches-py"
BINARY_FOLDER = "cifar-10-batches-bin"
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVES = (PYTHON_ARCHIVE, "cifar-10-python.tar", "cifar-10-binary.tar.gz", "cifar-10-binary.tar")

_FILE_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


@dataclass(frozen=True)
class Official:
    """The facts the readers check against; tests pass a small stand-in.

    rows: images a file holds. file_md5: of the Python 2 batch files (none are published for the files
    inside the binary archive). archive_bytes: the largest archive that is downloaded or opened.
    """

    rows: int = 10_000
    url: str = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    archive_md5: str = "c58f30108f718f92721af3b95e74349a"
    archive_sha256: str = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    binary_archive_md5: str = "c32a1d4ab5d03f1284b67883e8d87530"
    file_md5: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(_FILE_MD5))
    archive_bytes: int = 512 * 2**20

    @property
    def train_rows(self) -> int:
        """Training images in all five files."""
        return self.rows * len(TRAIN_FILES)

    @property
    def file_bytes(self) -> int:
        """More than any batch file holds: pixels, labels, and at most 200 bytes of names an image."""
        return self.rows * (PIXELS + 256) + 4096


CIFAR10 = Official()
