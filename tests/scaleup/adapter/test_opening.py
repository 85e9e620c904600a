"""Opening pipelines: the same bits after a reload, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from scaleup.adapter import ImageModel, open_model
from tests.scaleup import tiny

PIPES = {
    "sd15": tiny.sd15,
    "pixel": lambda: tiny.sd15("v_prediction", pixel=True),
    "sd3": tiny.sd3,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{name: folder} of every tiny pipeline."""
    root = tmp_path_factory.mktemp("pipelines")
    return {name: tiny.save(make(), root / name) for name, make in PIPES.items()}


@pytest.fixture
def copy(saved, tmp_path):
    """A folder to spoil: copy("sd15")."""

    def make(name="sd15"):
        return Path(shutil.copytree(saved[name], tmp_path / name))

    return make


@pytest.mark.parametrize("name", PIPES)
def test_a_reloaded_pipeline_is_the_same_to_the_bit(name, saved):
    built, opened = ImageModel(PIPES[name]()), open_model(saved[name])
    assert (opened.family, opened.event_shape, opened.span) == (
        built.family,
        built.event_shape,
        built.span,
    )
    x = torch.randn(2, *built.event_shape, generator=torch.Generator().manual_seed(1))
    cond, texts = torch.tensor([1, 2]), ("a red square", "blue")
    outputs = [m.velocity(m.prompts(texts))(x, 0.5, cond) for m in (built, opened)]
    assert torch.equal(*outputs)
    assert torch.equal(built.decode(x), opened.decode(x))
    assert not any(p.requires_grad for p in opened.network.parameters())
    assert not opened.network.training


def test_null_parts_stay_none(saved):
    assert open_model(saved["pixel"]).pipe.vae is None
    assert open_model(saved["sd15"]).pipe.safety_checker is None
    pipe = open_model(saved["sd3"]).pipe
    assert pipe.text_encoder_3 is None
    assert pipe.tokenizer_3 is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", PIPES)
def test_dtype(name, dtype, saved):
    model = open_model(saved[name], dtype=dtype)
    assert {p.dtype for p in model.network.parameters()} == {dtype}
    x = torch.zeros(1, *model.event_shape)
    assert model.velocity()(x, 0.5).dtype == torch.float32
    assert model.decode(x).dtype == torch.float32


def test_folders_as_they_were_published(copy):
    """Old names of weights, numbers that today's classes compute, a safety checker whose files are
    not there (it is never loaded), another scheduler, half precision."""
    folder = copy()
    words, vae = (next((folder / part).glob("*.safetensors")) for part in ("text_encoder", "vae"))
    old = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(words).items()}
    old["text_model.embeddings.position_ids"] = torch.arange(tiny.LENGTH)[None]
    save_file(old, words, {"format": "pt"})
    old = load_file(vae)
    for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        old = {k.replace(new, name): v for k, v in old.items()}
    old = {k.replace("to_out.0", "proj_attn"): v for k, v in old.items()}
    save_file(old, vae, {"format": "pt"})
    edit(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        scheduler=["diffusers", "PNDMScheduler"],
    )
    opened, built = open_model(str(folder)).pipe, tiny.sd15()
    for part in ("text_encoder", "vae", "unet"):
        pairs = zip(
            getattr(opened, part).parameters(), getattr(built, part).parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    unet = next((folder / "unet").glob("*.safetensors"))
    save_file({k: v.half() for k, v in load_file(unet).items()}, unet, {"format": "pt"})
    network = open_model(str(folder)).network
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_sharded_weights(tmp_path):
    pipe = tiny.sd15()
    pipe.save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted((tmp_path / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    pairs = zip(open_model(str(tmp_path)).network.parameters(), pipe.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    refused(tmp_path, shards[1], "must be a safetensors file as it was saved")
    shards[1].unlink()
    refused(tmp_path, tmp_path / "unet", shards[1].name)


# --- what is refused


def refused(folder, *words):
    """open_model refuses the folder in words that hold all of `words`."""
    with pytest.raises(ValueError, match=r"must|cannot be read|make no|holds no|no such") as caught:
        open_model(str(folder))
    for word in words:
        assert str(word) in str(caught.value)


def edit(file, **changes):
    """Changes entries of a JSON file."""
    table = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(table))


def test_no_such_folder():
    for model in ("/no/such/folder", "folder with spaces", "model.safetensors"):
        refused(model, "model must be a folder in diffusers' layout")
    with pytest.raises(ValueError, match=r"model must be a folder .* got ''"):
        open_model("")
    with pytest.raises(ValueError, match=r"got '/no/such/folder', which is no folder"):
        open_model("/no/such/folder")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def fail(name, **options):
        assert options == {"use_safetensors": True}
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", fail)
    refused("someone/model", "model must be", "got 'someone/model'", "OSError: no route to host)")


def test_a_hub_that_can_be_reached(monkeypatch, saved):
    """Its folder is opened like any other."""
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "download", lambda name, **options: saved["sd15"]
    )
    assert open_model("someone/model").family == "sd15"


def test_a_folder_that_is_no_pipeline(tmp_path, copy):
    refused(tmp_path, "is no pipeline", tmp_path / "model_index.json")
    folder = copy()
    index = folder / "model_index.json"
    edit(index, _class_name="StableDiffusionXLPipeline")
    refused(folder, index, "'StableDiffusionXLPipeline'", "must be StableDiffusionPipeline or ")
    edit(index, _class_name=["pipeline", "Mine"])
    refused(folder, index, "['pipeline', 'Mine']")
    index.write_text("[1, 2]")
    refused(folder, index, "must hold a table, got a list")
    index.write_text("{")
    refused(folder, index, "is no pipeline", "JSONDecodeError")


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("unet", ["unet_of_mine", "UNet2DConditionModel"]),  # code in the folder
        ("unet", ["diffusers", "UNet1DModel"]),
        ("unet", ["diffusers", "NoSuchClass"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
        ("scheduler", ["diffusers", "NoSuchScheduler"]),
        ("scheduler", "DDIMScheduler"),
        ("text_encoder", ["diffusers", "UNet2DConditionModel"]),
    ],
)
def test_parts_of_unknown_classes(part, entry, copy):
    folder = copy()
    edit(folder / "model_index.json", **{part: entry})
    refused(folder, folder / "model_index.json", f"{part} must be null or a", f"got {entry!r}")


def test_code_in_the_folder_is_not_run(copy):
    folder = copy()
    (folder / "unet" / "unet_of_mine.py").write_text("raise SystemExit('ran')")
    edit(folder / "model_index.json", unet=["unet_of_mine", "UNet2DConditionModel"])
    refused(folder, "unet_of_mine")


def test_parts_that_are_missing(copy):
    folder = copy()
    edit(folder / "model_index.json", text_encoder=[None, None])
    refused(folder, "text_encoder must be a network, got None")
    folder = copy("pixel")
    edit(folder / "model_index.json", tokenizer=[None, None])
    refused(folder, "tokenizer must be text_encoder's tokenizer, got None")
    folder = copy("sd3")
    shutil.rmtree(folder / "transformer")
    refused(folder, folder / "transformer", "no such folder")


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"prediction_type": "sample"}, "got 'sample'"), ({"beta_end": 1.5}, "abar")],
)
def test_schedules_that_cannot_be_read(changes, word, copy):
    folder = copy()
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    refused(folder, folder, word, "must be")


def test_schedulers_of_the_other_family(copy):
    folder = copy()
    edit(folder / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    refused(folder, "scheduler FlowMatchEulerDiscreteScheduler must be", "no alphas_cumprod")
    folder = copy("sd3")
    edit(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    refused(folder, "scheduler must be a flow-matching one", "got DDIMScheduler")


def test_zero_terminal_snr_needs_v(copy):
    """Where abar = 0, eps says nothing of x_1; v does."""
    folder = copy("pixel")
    config = folder / "scheduler" / "scheduler_config.json"
    edit(config, rescale_betas_zero_snr=True)
    model = open_model(str(folder))
    assert model.span[0] == 0
    assert model.start_std == 1
    assert bool(torch.isfinite(model.velocity()(torch.zeros(1, *model.event_shape), 0.0)).all())
    edit(config, prediction_type="epsilon")
    refused(folder, "eps does not determine the velocity")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights(part, copy):
    folder = copy()
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, file, "must be a safetensors file as it was saved")
    file.write_bytes(b"")
    refused(folder, file, "must be a safetensors file as it was saved")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_do_not_fit(part, copy):
    folder = copy()
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(n for n, w in weights.items() if w.ndim == 2)
    save_file(weights | {name: torch.zeros(3, 5)}, file, {"format": "pt"})
    refused(folder, folder / part)
    save_file({n: w for n, w in weights.items() if n != name}, file, {"format": "pt"})
    refused(folder, folder / part, "missing keys", name.removeprefix("text_model."))


def test_weights_of_a_larger_network(copy):
    folder = copy()
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"more.weight": torch.zeros(2)}, file, {"format": "pt"})
    refused(folder, folder / "unet", "unexpected keys more.weight")


def test_pickled_weights_are_never_read(copy):
    folder = copy()
    (file,) = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    refused(folder, folder / "unet", "hold diffusion_pytorch_model.safetensors", "never read")


def test_broken_configurations(copy):
    folder = copy()
    file = folder / "unet" / "config.json"
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    refused(folder, file, "cannot be read")
    file.unlink()
    refused(folder, file, "cannot be read")
    shutil.rmtree(folder)
    folder = copy()
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    refused(folder, folder / "tokenizer")


def test_networks_with_other_inputs(copy):
    unet = tiny.sd15().unet
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    for changes, word in (
        ({"out_channels": 8}, "out_channels must be in_channels = 4 .* got 8"),
        ({"class_embed_type": "timestep"}, "class_embed_type must be None, got 'timestep'"),
    ):
        pipe = tiny.sd15()
        pipe.unet = diffusers.UNet2DConditionModel(**(config | changes))
        with pytest.raises(ValueError, match=word):
            ImageModel(pipe)
    with pytest.raises(ValueError, match=r"the pipeline must be StableDiffusion.* got 'dict'"):
        ImageModel({})
