"""CIFAR-10 through torchvision and tensorflow-datasets: their own code, on small data in their formats."""

import copy
import hashlib
import importlib
import importlib.util
import io
import os
import pickle
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers import cifar_files as made
from triptych.cifar10 import CLASS_NAMES, DataError
from triptych.cifar10.dataset import Arrays
from triptych.cifar10.sources import load_official

ARRAYS = made.tiny_arrays()


def load(dataset: str, folder: Path):
    return load_official(dataset, folder, 1.0, lambda _: None, made.tiny_official())


def forget(monkeypatch, package: str) -> None:
    """Take a package out of the loaded modules until the test's end."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def torchvision(monkeypatch):
    """torchvision.datasets, also where torchvision's operators do not fit the installed torch."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    whole = torch.library.register_fake

    def all_but_torchvision(op, *arguments, **options):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return whole(op, *arguments, **options)

    before = set(sys.modules)
    with monkeypatch.context() as during_import:
        during_import.setattr(torch.library, "register_fake", all_but_torchvision)
        datasets = importlib.import_module("torchvision.datasets")
    assert torch.library.register_fake is whole
    yield datasets
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "torchvision":
            del sys.modules[name]


@pytest.fixture
def small_torchvision(monkeypatch, torchvision, tmp_path):
    """torchvision.datasets.CIFAR10 expecting our small archive in place of the official one."""
    meta = pickle.dumps({"label_names": list(CLASS_NAMES)}, protocol=2)
    files = {**made.batch_files(ARRAYS, "python"), "batches.meta": meta}
    archive = made.write_archive(tmp_path / "cifar-10-python.tar.gz", files)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    cls = torchvision.CIFAR10
    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(cls, "train_list", [[name, md5[name]] for name, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(cls, "url", "http://127.0.0.1:1/none")
    return archive


def test_torchvision_gives_the_same_arrays(small_torchvision, tmp_path, capsys):
    data = load("torchvision", tmp_path)
    made.assert_same(data, ARRAYS)
    assert data.source == "torchvision"
    made.assert_same(load("torchvision", tmp_path / "cifar-10-batches-py"), ARRAYS)


def test_torchvision_refuses_an_altered_archive(small_torchvision, tmp_path):
    small_torchvision.write_bytes(small_torchvision.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"torchvision could not give CIFAR-10.*refused.*official"):
        load("torchvision", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_torchvision_with_other_counts_is_refused(small_torchvision, tmp_path):
    with pytest.raises(DataError, match=r"expected training images uint8 \(25, 32, 32, 3\)"):
        load_official("torchvision", tmp_path, 1.0, lambda _: None, made.tiny_official(rows=5))


def test_torchvision_missing(monkeypatch, tmp_path):
    forget(monkeypatch, "torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match=r"torchvision cannot be imported.*install.*--dataset cifar10"):
        load("torchvision", tmp_path)


def test_torchvision_built_for_another_torch(monkeypatch, tmp_path):
    forget(monkeypatch, "torchvision")
    (tmp_path / "torchvision").mkdir()
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"operator torchvision::nms does not exist\); install"):
        load("torchvision", tmp_path)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def records(arrays: Arrays) -> dict[str, list[dict]]:
    """The records of both splits, shuffled as tensorflow-datasets stores them."""
    order = np.random.default_rng(1)
    out: dict[str, list[dict]] = {}
    for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        out[split] = [
            {"id": f"{split}_{place:05d}", "image": png(images[place]), "label": int(labels[place])}
            for place in order.permutation(len(labels))
        ]
    return out


RECORDS = records(ARRAYS)


@pytest.fixture
def prepare(tmp_path):
    """Write records as tensorflow-datasets prepares them, in two shards a split; the data_dir."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    core = {
        name: importlib.import_module(f"tensorflow_datasets.core.{name}")
        for name in ("example_serializer", "file_adapters", "naming", "splits")
    }

    def write(content: dict[str, list[dict]], classes=CLASS_NAMES, file_format: str = "array_record") -> Path:
        builder = tfds.builder("cifar10", data_dir=tmp_path, file_format=file_format)
        folder = Path(builder.data_dir)
        folder.mkdir(parents=True)
        features = builder.info.features
        features["label"].names = list(classes)
        serializer = core["example_serializer"].ExampleSerializer(features.get_serialized_info())
        infos = []
        for split, examples in content.items():
            encoded = [serializer.serialize_example(features.encode_example(e)) for e in examples]
            half = len(encoded) // 2
            for shard, part in enumerate((encoded[:half], encoded[half:])):
                if file_format == "array_record":
                    path = folder / f"cifar10-{split}.array_record-{shard:05d}-of-00002"
                    write_shard = core["file_adapters"].ArrayRecordFileAdapter.write_examples
                    write_shard(path, [(0, record) for record in part])
            template = core["naming"].ShardedFileTemplate(
                data_dir=folder, dataset_name="cifar10", split=split, filetype_suffix=file_format
            )
            infos.append(
                core["splits"].SplitInfo(
                    name=split,
                    shard_lengths=[half, len(encoded) - half],
                    num_bytes=sum(map(len, encoded)),
                    filename_template=template,
                )
            )
        builder.info.set_splits(core["splits"].SplitDict(infos))
        builder.info.write_to_directory(folder)
        return tmp_path

    return write


def test_tfds_gives_the_official_order(prepare):
    ids = [example["id"] for example in RECORDS["train"]]
    assert ids != sorted(ids)
    data = load("tfds", prepare(RECORDS))
    made.assert_same(data, ARRAYS)
    assert data.source == "tfds"


WRONG: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "place": ("train", {"id": "train_00020"}, r"record 3: expected an id from train_00000 to train_00019"),
    "split": ("train", {"id": "test_00001"}, "got 'test_00001'"),
    "number": ("test", {"id": "test_-0001"}, "split test, record 3"),
    "no image": ("train", {"image": b"no png"}, "damaged"),
    "size": ("train", {"image": png(np.zeros((3, 8, 8), np.uint8))}, r"\(8, 8, 3\)"),
    "twice": ("test", {"id": RECORDS["test"][0]["id"]}, "split test, record 3: expected each id once"),
    "too few": ("test", None, f"split test: expected {made.ROWS} records, got {made.ROWS - 1}"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tfds_with_a_wrong_record(prepare, case):
    split, values, said = WRONG[case]
    content = copy.deepcopy(RECORDS)
    if values is None:
        del content[split][0]
    else:
        content[split][3].update(values)
    with pytest.raises(DataError, match=said):
        load("tfds", prepare(content))


def test_tfds_with_other_classes(prepare):
    with pytest.raises(DataError, match="expected the classes"):
        load("tfds", prepare(RECORDS, classes=CLASS_NAMES[::-1]))


def test_tfds_prepared_for_tensorflow(prepare):
    folder = prepare(RECORDS, file_format="tfrecord")
    with pytest.raises(DataError, match=r"without TensorFlow; expected array_record.*and_prepare\(\)"):
        load("tfds", folder)


def test_tfds_not_prepared(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(DataError, match=r"no prepared CIFAR-10 under.*pip install tensorflow.*_prepare"):
        load("tfds", tmp_path)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("dataset_info.json", lambda path: path.write_text("{"), "cannot be opened"),
        ("*train*-00000-of-00002", lambda path: os.truncate(path, 1000), "tfds"),
        ("*train*-00001-of-00002", Path.unlink, "tfds"),
    ],
)
def test_tfds_with_damaged_files(prepare, file, damage, said):
    folder = prepare(RECORDS)
    for path in list(folder.rglob(file)):
        damage(path)
    with pytest.raises(DataError, match=said):
        load("tfds", folder)


def test_tfds_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"tensorflow-datasets cannot be imported.*pip install"):
        load("tfds", tmp_path)


def test_array_record_missing(prepare, monkeypatch):
    folder = prepare(RECORDS)
    lazy = "tensorflow_datasets.core.data_sources.array_record"
    module = importlib.import_module(lazy)

    class Missing:
        def __getattr__(self, name):
            raise ImportError("No module named 'array_record'")

    monkeypatch.setattr(module, "array_record_data_source", Missing())
    with pytest.raises(DataError, match=r"No module named 'array_record'.*pip install array_record"):
        load("tfds", folder)
