"""Configurations: from TOML and the command line, checked, and told apart by their digest."""

import dataclasses
import json
from pathlib import Path

import pytest

from scaleup.__main__ import COMMANDS
from scaleup.training.config import (
    RECIPES,
    TrainConfig,
    load_config,
    read_prompts,
    recipe_names,
)
from theory.common.console import parse

ROOT = Path(__file__).resolve().parents[3]
NAMES = [f.name for f in dataclasses.fields(TrainConfig)]
# Another value of every field than the default, valid together with the defaults of the rest.
OTHER = {
    "model": "somewhere", "prompts": "PROMPTS", "method": "tilt_matching:scale=3",
    "reward": "jpeg_size", "seed": 7, "steps": 11, "batch": 12, "micro_batch": 8,
    "learning_rate": 0.5, "weight_decay": 0.25, "max_grad_norm": 2.5, "lora_rank": 3,
    "lora_alpha": 6.0, "lora_targets": "to_q,to_k", "guidance": 2.0, "anchor_guidance": 1.5,
    "sampling_steps": 9,
    "solver": "heun", "chunk": 5, "group": 4, "bank": 99, "evaluate": 9, "grid_every": 0,
    "checkpoint_every": 3, "precision": "bf16", "gradient_checkpointing": True, "processes": 2,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red square\n\n  blue \n")
    return str(file)


@pytest.fixture
def other(prompts):
    return {**OTHER, "prompts": prompts}


def with_field(name, other):
    """The default configuration with one field changed; a user's own model needs prompts."""
    more = {"prompts": other["prompts"]} if name == "model" else {}
    return {**more, name: other[name]}


def from_words(*words):
    """What `python -m scaleup train` makes of its options."""
    options = parse("scaleup", None, COMMANDS, ["train", *map(str, words)])[0]
    given = {name: getattr(options, name) for name in NAMES}
    return load_config(options.config, {k: v for k, v in given.items() if v is not None})


def as_words(name, value):
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, value]


def as_toml(values):
    return "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())


# --- reading


def test_the_defaults():
    assert from_words() == TrainConfig()
    assert OTHER.keys() == set(NAMES)
    assert all(getattr(TrainConfig(), name) != OTHER[name] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_comes_from_toml_and_from_the_command_line(name, other, tmp_path):
    values = with_field(name, other)
    expected = TrainConfig(**values)
    assert from_words(*(w for k, v in values.items() for w in as_words(k, v))) == expected
    file = tmp_path / "my.toml"
    file.write_text(as_toml(values))
    assert from_words("--config", file) == expected
    assert expected != TrainConfig()


def test_the_command_line_comes_before_the_file(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('steps = 5\ngradient_checkpointing = true\nreward = "redness"\n')
    found = from_words("--config", file, "--steps", 9, "--no-gradient-checkpointing")
    assert found == TrainConfig(steps=9, reward="redness")


def test_whole_numbers_are_numbers(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("guidance = 3\n")
    assert type(from_words("--config", file).guidance) is float


@pytest.mark.parametrize("name", recipe_names())
def test_recipes(name):
    config = load_config(name, {})
    text = (RECIPES / f"{name}.toml").read_text()
    assert text.startswith("# ")  # `list recipes` shows it
    assert config.rows * config.accumulate == config.batch
    assert config.parsed_method.starts_from == "base"
    # Model and prompts are the user's; everything else must fit together.
    dataclasses.replace(config, prompts="", model="builtin").check_together()


def test_recipes_of_both_families_and_three_methods_and_of_gflownets():
    found = {
        (load_config(n, {}).model, load_config(n, {}).parsed_method.name) for n in recipe_names()
    }
    models = {model for model, _ in found}
    assert len(models) == 2
    small = load_config("sd15-nft", {}).model
    gflownets = {"residual_nabla_db", "residual_db", "relative_trajectory_balance", "ddpo"}
    assert found == {
        *((m, n) for m in models for n in ("nft", "tilt_matching", "weighted_flow_matching")),
        *((small, n) for n in gflownets),
    }


# --- refusing

BAD_TOML = {
    "step = 3": "a field must be one of model, prompts, method",
    "steps = 3.5": "steps must be of type int, got 3.5",
    "steps = true": "steps must be of type int, got True",
    'steps = "3"': "steps must be of type int, got '3'",
    "model = 3": "model must be of type str, got 3",
    "solver = 1": "solver must be of type str, got 1",
    "gradient_checkpointing = 1": "gradient_checkpointing must be of type bool, got 1",
    'learning_rate = "x"': "learning_rate must be of type float, got 'x'",
    "[train]\nsteps = 3": "got 'train'",
    "steps = ": "must be TOML",
}


@pytest.mark.parametrize("text", BAD_TOML)
def test_bad_files(text, tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.toml") as caught:
        load_config(str(file), {})
    assert BAD_TOML[text] in str(caught.value)


@pytest.mark.parametrize("name", ["nothing", "nothing.toml"])
def test_no_such_recipe(name):
    with pytest.raises(FileNotFoundError, match=rf"config must be .*sd15-nft, .* got '{name}'"):
        load_config(name, {})


NAN, INF = float("nan"), float("inf")
BAD = {
    "steps": [0, -1, 2.0, True], "batch": [0], "micro_batch": [-1, 5, 64], "chunk": [0],
    "learning_rate": [0.0, -1.0, NAN, INF], "weight_decay": [-0.1, NAN], "max_grad_norm": [0.0],
    "lora_rank": [0], "lora_alpha": [-1.0, NAN], "guidance": [NAN, INF], "sampling_steps": [1],
    "solver": ["rk4"], "group": [0, 5], "bank": [0], "evaluate": [7], "grid_every": [-1],
    "checkpoint_every": [0], "precision": ["fp8"], "processes": [0, 3], "device": ["tpu"],
    "seed": [-1, 2**30 + 1], "model": ["folder"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_values_out_of_range(name, value):
    said = "prompts must be" if name == "model" else rf"{name} must be|of {name} = {value}"
    with pytest.raises(ValueError, match=said):
        TrainConfig(**{name: value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 9, "processes": 2}, "batch must be a multiple of processes = 2, got 9"),
        (
            {"batch": 8, "processes": 2, "micro_batch": 8},
            "micro_batch must be a divisor of 4, .* got 8",
        ),
        ({"micro_batch": 4, "group": 8}, "group must be a divisor of 4, .* got 8"),
        ({"model": "mine"}, "prompts must be .* with model = 'mine' .* got ''"),
    ],
)
def test_values_that_contradict_each_other(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


RANGE = (
    r"reward must take values in \[0, 1\] for method = 'nft:nft_beta=1', got 'redness' with values "
    r"in \[-1.0, 1.0\]; reward_mapping=released maps any reward"
)
GRADIENT = (
    "reward must take any finite values, differentiable, for method = 'adjoint_matching', got "
    "'jpeg_size', which has no gradient"
)
TOGETHER = {
    "nft:nft_beta=1": ("redness", RANGE),
    "adjoint_matching": ("jpeg_size", GRADIENT),
    "flow_matching": ("redness", "got 'flow_matching', which trains from nothing"),
    "magic": ("redness", "method must be one of .*nft.*got 'magic'"),
    "nft:strength=1": ("redness", "option of method 'nft' must be one of nft_beta.*'strength'"),
    "nft:nft_beta=x": ("redness", "nft_beta of method 'nft' must be a number, got 'x'"),
    "ddpo": ("magic", "reward must be one of .*redness.*got 'magic'"),
    "tilt_matching": ("x*redness", "weight in reward 'x.redness' must be a number .* got 'x'"),
}


@pytest.mark.parametrize("method", TOGETHER)
def test_method_and_reward_must_fit(method, prompts):
    reward, message = TOGETHER[method]
    with pytest.raises(ValueError, match=message):
        TrainConfig(method=method, reward=reward, prompts=prompts).check_together()


GUIDED = "nft:anchor=guided,kl_weight=1,reward_mapping=released"


@pytest.mark.parametrize(("method", "weight"), [(GUIDED, 1.0), ("nft:reward_mapping=released", 3)])
def test_the_anchors_guidance_goes_with_the_method(method, weight):
    with pytest.raises(
        ValueError, match=rf"anchor_guidance must .* got {weight:g} with method = 'nft"
    ):
        TrainConfig(method=method, anchor_guidance=weight).check_together()
    TrainConfig(method=method, anchor_guidance=4 - weight).check_together()


def test_the_digest_changes_with_the_models_files(tmp_path):
    def digest():
        return TrainConfig(model=str(tmp_path), prompts=prompts).digest

    (tmp_path / "p.txt").write_text("a cat\n")
    prompts, weights = str(tmp_path / "p.txt"), tmp_path / "unet" / "model.safetensors"
    weights.parent.mkdir()
    found = {digest()}
    for content in (b"one", b"two", b"0" * 2**21 + b"end", b"0" * 2**21 + b"END"):
        weights.write_bytes(content)
        found.add(digest())
    assert len(found) == 5


@pytest.mark.parametrize("name", ["method", "reward"])
def test_a_users_file_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match=rf"{name} = 'no/where\.py': no such file"):
        TrainConfig(**{name: "no/where.py"}).check_together()


def test_prompts_are_looked_at_first(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prompts = '.*none\.txt': no such file"):
        TrainConfig(prompts=str(tmp_path / "none.txt")).check_together()


# --- parts


def test_how_a_batch_is_shared():
    config = TrainConfig(batch=48, processes=2, micro_batch=8)
    assert (config.rows, config.accumulate) == (8, 3)
    config = TrainConfig(batch=48, processes=2)
    assert (config.rows, config.accumulate) == (24, 1)


def test_lora_options():
    config = TrainConfig(lora_rank=3, lora_alpha=6.0, lora_targets="to_q, ff.net.2")
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (
        3,
        6.0,
        ("to_q", "ff.net.2"),
    )


# --- identity


@pytest.mark.parametrize("name", [n for n in NAMES if n != "device"])
def test_the_digest_changes_with_every_field(name, other):
    values = with_field(name, other)
    fixed = {k: v for k, v in values.items() if k != name}
    assert TrainConfig(**values).digest != TrainConfig(**fixed).digest


def test_the_device_is_no_part_of_the_digest():
    assert TrainConfig(device="cpu").digest == TrainConfig().digest


def own_files(tmp_path):
    """Digests before and after a change to each of the user's files; in a folder with a space."""
    place = tmp_path / "my folder"
    place.mkdir()
    examples = {"method": "my_method.py", "reward": "my_reward.py"}
    files = {k: place / name for k, name in examples.items()}
    for file in files.values():
        file.write_text((ROOT / "examples" / file.name).read_text())
    files["prompts"] = place / "prompts.txt"
    files["prompts"].write_text("one\n")
    values = {
        "method": f"{files['method']}:label_noise=0.5",
        "reward": f"0.5*brightness+0.5*{files['reward']}",
        "prompts": str(files["prompts"]),
    }
    found = [TrainConfig(**values).digest]
    for file in files.values():
        file.write_text(file.read_text() + "\n")
        found.append(TrainConfig(**values).digest)
    return found


def test_the_users_own_files_are_in_the_digest(tmp_path):
    assert len(set(own_files(tmp_path))) == 4


def test_the_folders_name():
    config = TrainConfig(method="nft:nft_beta=0.5", reward="0.5*redness+0.5*brightness")
    assert config.folder_name == f"builtin-nft-0.5_redness_0.5_brightness-{config.digest}"
    assert len(config.digest) == 10


# --- prompts


def test_prompts_of_a_text(prompts):
    assert read_prompts(prompts) == ["a red square", "blue"]


def test_prompts_of_lines_of_json(tmp_path):
    file = tmp_path / "p.jsonl"
    lines = [{"prompt": "zwei Hunde"}, {"prompt": "a\u2028b", "tag": 1}]
    file.write_text("\ufeff" + "\n\n".join(json.dumps(x, ensure_ascii=False) for x in lines))
    assert read_prompts(str(file)) == ["zwei Hunde", "a\u2028b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a red square", "line 2 must be .*, got 'a red square'"),
        ('{"text": "a"}', "line 2 must be"),
        ('["a"]', "line 2 must be"),
        ('{"prompt": 3}', "line 2: prompt must be a text, got 3"),
        ('{"prompt": " "}', "line 2: prompt must be a text, got ' '"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(line, message, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(f'{{"prompt": "one"}}\n{line}\n')
    with pytest.raises(ValueError, match=rf"p\.jsonl, {message}"):
        read_prompts(str(file))


def test_files_that_hold_no_prompts(tmp_path):
    cases = {"e.txt": b"\n \n", "u.txt": b"\xff\xfe\x00", "p.csv": b"a"}
    messages = ["at least one, got", "text in UTF-8, got", r"a \.txt or \.jsonl file, got"]
    for (name, data), message in zip(cases.items(), messages, strict=True):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"prompts must be {message} '.*{name}'"):
            read_prompts(str(tmp_path / name))
