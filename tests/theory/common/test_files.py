"""Files of tensors: the same content gives the same bytes."""

import json

import torch

from theory.common.files import read_tensors, write_tensors

TENSORS = {"b": torch.arange(3), "a": torch.ones(2, 2)}
WORDS = {"state": '{"step": 1}', "format": "é", "alpha": "2"}


def test_metadata_is_written_in_one_order(tmp_path):
    """The library's own order changes from call to call: 16 files would show it."""
    for i in range(16):
        write_tensors(tmp_path / str(i), TENSORS, WORDS)
    assert len({(tmp_path / str(i)).read_bytes() for i in range(16)}) == 1


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "file.safetensors"
    for words in (WORDS, {"one": "word"}, {}):
        write_tensors(path, TENSORS, words)
        tensors, metadata = read_tensors(path)
        assert metadata == words
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[k], TENSORS[k]) for k in TENSORS)


def test_the_file_is_safetensors_with_aligned_data(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, TENSORS, WORDS)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    assert list(json.loads(data[8 : 8 + size])["__metadata__"]) == sorted(WORDS)
