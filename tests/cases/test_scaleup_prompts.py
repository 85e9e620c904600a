"""Prompts that are cut, alike to the model, misspelt, too many; tokenizers as people have them."""
# ruff: noqa: F811

import json
import shutil
from pathlib import Path

import pytest
import torch

from scaleup.adapter import ImageModel, open_model
from scaleup.adapter.lora import LoraOptions, lora_student
from scaleup.adapter.prompts import Prompts
from scaleup.builtin import builtin_folder
from scaleup.training.config import read_prompts
from scaleup.training.legible import distinct_prompts, unseen_words
from tests.scaleup import tiny
from tests.scaleup.conftest import folders  # noqa: F401
from tests.scaleup.work import session, settings

LONG = "abcdefghijklmnopqrstuvwxyz"  # a token a letter; the tiny encoders read 16 with both ends


@pytest.fixture(scope="module")
def models(folders):
    return {kind: open_model(folders[kind]) for kind in ("sd15", "sd3")}


def edited(folder, tmp_path, **changes):
    """The pipeline with other words in tokenizer_config.json; None: taken out."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "tokenizer" / "tokenizer_config.json"
    words = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in words.items() if v != "gone"}))
    return str(copy)


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("length", ["gone", 77])
def test_c1_a_tokenizer_without_a_length_reads_what_its_encoder_does(
    kind, length, folders, models, tmp_path
):
    found = open_model(edited(folders[kind], tmp_path, model_max_length=length))
    assert found.pipe.tokenizer.model_max_length == tiny.LENGTH
    index = torch.tensor([0, 1])
    ours, theirs = (m.prompts([LONG]).rows(index) for m in (found, models[kind]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_b5_a_tokenizer_without_a_token_to_pad_with(folders, tmp_path):
    folder = edited(folders["sd15"], tmp_path, pad_token=None)
    with pytest.raises(
        ValueError,
        match=r"copy', tokenizer: pad_token must be a token .* got None in tokenizer_config",
    ):
        open_model(folder)


def test_a_tokenizer_of_another_model():
    pipe = tiny.sd15()
    pipe.tokenizer.add_tokens(["plumb", "line"])
    words = len(pipe.tokenizer)
    with pytest.raises(ValueError, match=rf"it has {words} tokens, the encoder knows {words - 2}"):
        ImageModel(pipe)


def test_c1_half_a_surrogate_pair(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a \\ud83d\\ude00"}\n{"prompt": "a \\ud83d"}\n')
    with pytest.raises(ValueError, match=r"line 2: prompt must .* got 'a \\ud83d', whose sign 3 "):
        read_prompts(str(path))


# --- A9: what the model does not see


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a9_prompts_that_are_one_to_the_model_are_trained_as_one(kind, models):
    """They differ in the end only, or in capital letters; the embeddings say so too."""
    prompts = ["a red square", LONG + "one", LONG + "two", "a RED square", "blue", "blue"]
    texts, notes = distinct_prompts(models[kind], prompts)
    assert texts == ["a red square", LONG + "one", "blue"]
    same, long = notes
    assert same.startswith("2 prompts are the same to the model as one before, and trained as that")
    assert same.endswith(f" one: '{LONG}two' as '{LONG}one' (and 1 more)")
    assert long.startswith("2 prompts are longer than the 16 tokens that the model reads, and cut")
    assert long.endswith(f": '{LONG}one' (and 1 more)")
    rows = models[kind].prompts(list(dict.fromkeys(prompts))).rows(torch.arange(1, 6))
    for value in rows.values():
        assert torch.equal(value[1], value[2])
        assert torch.equal(value[0], value[3])
        assert not torch.equal(value[0], value[1])


def test_prompts_that_the_model_tells_apart_stay_apart(models):
    """To the last token that is read."""
    prompts = [LONG[:14], LONG[:13], LONG[:13] + "z"]
    assert distinct_prompts(models["sd15"], prompts) == (prompts, [])
    cut = [LONG[:14], LONG[:14] + " b"]
    assert distinct_prompts(models["sd15"], cut)[0] == cut[:1]


def test_e9_signs_and_words_that_a_model_does_not_know(models):
    _, notes = distinct_prompts(models["sd15"], ["a café", "red"])
    assert notes == ["1 prompt is written with signs that the model's vocabulary lacks: 'a café'"]
    builtin = open_model(str(builtin_folder()))
    assert distinct_prompts(builtin, ["a café", "a red square"])[1] == []  # it spells in bytes
    (note,) = unseen_words(["a red square", "a dog and a cat", "A Red dog"])
    assert note.startswith(
        "2 prompts are in words that the built-in model has never seen (dog, and, cat), and"
    )
    assert unseen_words(["a red square", "An Purple circle"]) == []


def test_they_are_said_where_a_run_starts(folders, tmp_path, capsys):
    path = tmp_path / "prompts.txt"
    path.write_text(f"{LONG}one\n{LONG}two\nred\n")
    found = session(settings({**folders, "prompts": str(path)}, method="ddpo"), tmp_path)
    assert found.prompts.texts == ("", LONG + "one", "red")
    said = capsys.readouterr().err
    assert f"prompts = '{path}': 1 prompt is the same to the model as one before" in said


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a9_every_target_is_a_layer(kind):
    make = {"sd15": tiny.sd15, "sd3": tiny.sd3}[kind]
    for targets, wrong in ((("to_q", "tok_k"), "tok_k"), (("o_q",), "o_q"), (("to_q.",), "to_q.")):
        model = ImageModel(make())
        with pytest.raises(ValueError, match=rf"\bto_q\b.*'{wrong}' is no layer"):
            lora_student(model, model.velocity(), LoraOptions(targets=targets), torch.Generator())
        assert not any("lora" in name for name, _ in model.network.named_parameters())
    good = LoraOptions(targets=("to_q", "to_out.0"))
    assert lora_student(model, model.velocity(), good, torch.Generator()).state_dict()


# --- E7: many prompts


def test_e7_prompts_are_embedded_as_needed_in_bounded_memory_to_the_same_bits(models):
    model, order = models["sd3"], torch.randperm(40, generator=torch.Generator().manual_seed(0))
    texts = [f"a {letter}{number}" for number in range(5) for letter in "abcdefgh"]
    whole = model.prompts(texts)
    expected = whole.rows(torch.arange(41))
    size = sum(v[0].numel() * v.element_size() for v in expected.values())
    asked = []

    def embed(text):
        asked.append(text)
        return whole._embed(text)

    few = Prompts(whole.texts, embed, most_bytes=5 * size)
    assert asked == []
    for some in (order[:7], order[5:12], order[:0], order[3:4].repeat(9), order[20:]):
        found = few.rows(some)
        assert all(torch.equal(found[name], expected[name][some]) for name in expected)
        assert few._bytes == len(few._held) * size <= 5 * size
    assert len(asked) < 7 + 7 + 1 + 20
    again = len(asked)
    few.rows(order[-5:])
    assert len(asked) == again  # the newest are held


def test_e7_a_bank_smaller_than_the_prompts_is_said_first(folders, tmp_path, monkeypatch):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"{i}" for i in range(9)) + "\n")
    monkeypatch.setattr(Prompts, "_one", None)  # nothing is embedded
    here = {**folders, "prompts": str(path)}
    released = "nft:reward_mapping=released"
    for method, options, what in (
        (released, {"bank": 17}, "17 samples of 9 prompts, .* larger bank, or"),
        (f"{released},refresh_every=2,pool=16", {}, "16 samples of 9 prompts, .* pool of the"),
        (f"{released},refresh_every=2", {"batch": 8}, "8 samples of 9 prompts, .* larger group"),
    ):
        with pytest.raises(ValueError, match=what):
            session(settings(here, method=method, **options), tmp_path)
    for method, options in (
        (released, {"bank": 18}),
        (f"{released},refresh_every=2", {"batch": 8, "group": 2}),
        ("tilt_matching", {"bank": 8}),
    ):
        session(settings(here, method=method, **options), tmp_path)


def test_the_builtin_models_words_are_those_of_its_captions():
    file = Path(str(builtin_folder())) / "tokenizer" / "tokenizer.json"
    words = json.loads(file.read_text())["model"]["vocab"]
    assert unseen_words(["a an"]) == []
    assert all(f"{word}</w>" in words for word in ("red", "purple", "triangle", "cross"))
