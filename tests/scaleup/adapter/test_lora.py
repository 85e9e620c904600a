"""Student, old copy and reference on one base: each is what it says, whoever is active."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from scaleup.adapter import Guided, ImageModel, lora
from scaleup.adapter.lora import (
    OLD,
    STUDENT,
    TARGETS,
    LoraOptions,
    lora_student,
    parse_targets,
    save_lora,
)
from tests.scaleup import tiny
from tests.scaleup.work import perturb, same
from theory.common.tolerances import FLOAT32
from theory.methods.contract.online import follow

FAMILIES = {"sd15": tiny.sd15, "sd3": tiny.sd3}
TEXTS = ("a red square", "blue")


def made(family="sd15", options=LoraOptions(rank=2), seed=3, **pipe):  # noqa: B008
    """A model, a student on it, and rows to evaluate them on."""
    model = ImageModel(FAMILIES[family](**pipe))
    velocity = model.velocity(model.prompts(TEXTS))
    generator = torch.Generator().manual_seed(seed)
    student = lora_student(model, velocity, options, generator)
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(3, *model.event_shape, generator=noise)
    rows = x, torch.tensor([0.2, 0.5, 0.9]), torch.tensor([1, 2, 1])
    return SimpleNamespace(model=model, velocity=velocity, student=student, rows=rows)


def base_weights(model):
    """Everything of the network but its adapters, copied."""
    named = model.network.state_dict().items()
    return {k.replace(".base_layer.", "."): v.clone() for k, v in named if "lora_" not in k}


def weights(model):
    """The student's own weights."""
    return model.adapters.weights[STUDENT]


# --- who is who


@pytest.mark.parametrize("family", FAMILIES)
def test_all_begin_at_the_base(family):
    plain = ImageModel(FAMILIES[family]())
    run = made(family)
    expected = plain.velocity(plain.prompts(TEXTS))(*run.rows)
    reference, old = run.student.frozen_copy(), run.student.frozen_copy("old")
    for model in (run.student, reference, old):
        assert torch.equal(model(*run.rows), expected)


def roles_are_kept():
    """The reference stays at the base whatever the student does; the old copy follows only when
    it is told to, and then lies between."""
    run = made()
    reference, old = run.student.frozen_copy(), run.student.frozen_copy("old")
    with torch.no_grad():
        base = run.student(*run.rows)
        perturb(weights(run.student))
        moved = run.student(*run.rows)
        found = [not torch.equal(moved, base), torch.equal(reference(*run.rows), base)]
        found.append(torch.equal(old(*run.rows), base))
        half = {k: v / 2 + w / 2 for (k, v), w in zip(
            weights(run.student).items(), old.parameters(), strict=True)}  # fmt: skip
        follow(old, run.student, 0.5)
        found.append(all(FLOAT32.holds(v.detach(), half[k].detach(), 1.0)
                         for k, v in run.student.adapters.weights[OLD].items()))  # fmt: skip
        found.append(not torch.equal(old(*run.rows), base))
        follow(old, run.student, 0.0)
        found.append(torch.equal(old(*run.rows), moved))
        perturb(weights(run.student), seed=6)
        found.append(torch.equal(old(*run.rows), moved))
        found.append(torch.equal(reference(*run.rows), base))
    return found


def test_reference_and_old_are_what_they_say():
    assert all(roles_are_kept())


def test_an_old_copy_is_taken_of_a_student_that_has_moved():
    run = made()
    perturb(weights(run.student))
    assert torch.equal(run.student.frozen_copy("old")(*run.rows), run.student(*run.rows))


def test_a_reference_of_a_student_that_has_moved_is_refused():
    run = made()
    perturb(weights(run.student))
    with pytest.raises(ValueError, match=r"must be taken before training.*lora_B.* is not zero"):
        run.student.frozen_copy("reference")


def test_a_second_old_copy_is_refused():
    run = made()
    run.student.frozen_copy("old")
    with pytest.raises(ValueError, match="adapter must be a new name, got 'old'"):
        run.student.frozen_copy("old")


# --- switching


def grads_asked(student):
    return {k for k, v in student.adapters.network.named_parameters() if v.requires_grad}


@pytest.mark.parametrize("adapter", [None, OLD, STUDENT])
def test_using_puts_back_what_was(adapter):
    run = made()
    run.student.frozen_copy("old")
    adapters, before = run.student.adapters, grads_asked(run.student)
    assert before
    assert all(f".{STUDENT}." in name for name in before)
    perturb(weights(run.student))
    with torch.no_grad():
        expected = run.student(*run.rows)
        with adapters.using(adapter):
            assert grads_asked(run.student) == before  # nobody else's, not even meanwhile
            with adapters.using(None):
                pass
            assert adapters.active == adapter
        assert grads_asked(run.student) == before
        with pytest.raises(ZeroDivisionError), adapters.using(adapter):
            raise ZeroDivisionError
        assert grads_asked(run.student) == before
        assert adapters.active == STUDENT
        assert torch.equal(run.student(*run.rows), expected)


def gradients(run, recompute):
    """Of the student's weights through it, and of x through old copy and reference."""
    models = [run.student, run.student.frozen_copy("old")]
    models.append(lora.LoraVelocity(run.student.adapters, run.velocity, None))
    perturb(weights(run.student))
    perturb(run.student.adapters.weights[OLD], seed=8)
    if recompute:
        run.student.adapters.recompute_activations()
    x, t, cond = run.rows
    found = []
    for model in models:
        point = x.clone().requires_grad_(True)
        loss = model(point, t, cond).square().sum()
        wanted = [point, *run.student.parameters()]
        found.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_have_the_gradients_of_their_adapter(family):
    """A gradient through the base meets the base again, although the student is active by then."""
    whole, recomputed = gradients(made(family), False), gradients(made(family), True)
    for ours, theirs in zip(whole, recomputed, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one is None) == (other is None)
            assert one is None or FLOAT32.holds(other, one, float(one.abs().max()))
    assert all(g is not None for g in whole[0])
    for through in whole[1:]:
        assert all(g is None for g in through[1:])
        assert not FLOAT32.holds(through[0], whole[0][0], float(whole[0][0].abs().max()))


def test_recomputing_with_another_adapter_is_seen():
    """diffusers' own way runs the student where the base was."""
    run = made()
    run.student.adapters.network.enable_gradient_checkpointing()
    perturb(weights(run.student))
    reference = lora.LoraVelocity(run.student.adapters, run.velocity, None)
    point = run.rows[0].clone().requires_grad_(True)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        reference(point, *run.rows[1:]).sum().backward()


# --- training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_student_trains_in_float32(dtype):
    model = ImageModel(tiny.sd15(), dtype=dtype)
    velocity = model.velocity(model.prompts(TEXTS))
    velocity.autocast = None if dtype == torch.float32 else dtype
    student = lora_student(model, velocity, LoraOptions(2), torch.Generator().manual_seed(0))
    old, before = student.frozen_copy("old"), base_weights(model)
    lagging = {k: v.clone() for k, v in old.state_dict().items()}
    parameters = list(student.parameters())
    assert {p.dtype for p in parameters} == {torch.float32}
    assert len(parameters) == 2 * 4 * 8  # A and B of q, k, v, out in four blocks, self and cross
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    x = torch.randn(3, *model.event_shape, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        student(x, 0.5, torch.tensor([1, 2, 1])).square().sum().backward()
        optimiser.step()
    assert same(before, base_weights(model))
    assert same(lagging, old.state_dict())
    assert all(p.grad is None for k, p in model.network.named_parameters() if STUDENT not in k)
    assert all(bool(v.any()) for v in student.state_dict().values())


def test_small_steps_are_not_lost_in_half_precision():
    """What float32 adapters are for: of bfloat16 ones, most steps would round to nothing."""
    step = 1e-4 * torch.ones(())
    student = made().student
    perturb(weights(student))
    value = next(iter(weights(student).values())).detach()
    lost = value.bfloat16() + step.bfloat16() == value.bfloat16()
    assert not bool((value + step == value).any())
    assert lost.sum() > len(lost) / 2


def test_the_draw_is_the_generators_own():
    torch.manual_seed(11)
    state = torch.get_rng_state()
    ours, again, other = (made(seed=s).student for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    ours.frozen_copy("old")
    assert torch.equal(torch.get_rng_state(), state)
    assert same(ours.state_dict(), again.state_dict())
    assert not same(ours.state_dict(), other.state_dict())
    for name, value in ours.state_dict().items():
        bound = value[0].numel() ** -0.5
        assert bool((value == 0).all()) if "lora_B" in name else 0.5 * bound < value.max() < bound


def test_the_student_holds_its_adapter_only():
    run = made()
    assert list(run.student.state_dict()) == list(weights(run.student))
    assert not any(STUDENT in name for name in run.student.state_dict())
    assert list(run.student.frozen_copy().parameters()) == []


def test_guidance_wraps_student_and_reference():
    run = made()
    generator = torch.Generator().manual_seed(0)
    model = ImageModel(tiny.sd15())
    velocity = model.velocity(model.prompts(TEXTS))
    guided = lora_student(model, velocity, LoraOptions(2), generator, 3.0)
    expected = Guided(run.velocity, 3.0)(*run.rows)
    assert torch.equal(guided(*run.rows), expected)
    assert torch.equal(guided.frozen_copy()(*run.rows), expected)
    assert not torch.equal(guided(*run.rows), run.student(*run.rows))


# --- files


def reloaded(run, folder, family):
    """The velocity of a pipeline built anew, with the file loaded by diffusers."""
    pipe = FAMILIES[family]()
    pipe.load_lora_weights(folder)
    model = ImageModel(pipe)
    return model.velocity(model.prompts(TEXTS))(*run.rows)


def moved(family, options):
    run = made(family, options)
    perturb(weights(run.student))
    run.student.frozen_copy("old")
    return run


@pytest.mark.parametrize("options", [LoraOptions(2), LoraOptions(4, 16.0)])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_diffusers_loads_the_same_student(family, options, tmp_path):
    run = moved(family, options)
    save_lora(run.model, tmp_path)
    expected = run.student(*run.rows)
    assert torch.equal(reloaded(run, tmp_path, family), expected)
    assert not torch.equal(
        run.student.adapters.network and made(family).student(*run.rows), expected
    )


def test_the_file_holds_the_student_and_its_options(tmp_path):
    run = moved("sd15", LoraOptions(2))
    save_lora(run.model, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "pytorch_lora_weights.safetensors"
    with safe_open(path, "pt") as file:
        assert len(list(file.keys())) == len(run.student.state_dict())
        assert not any("old" in name for name in file.keys())  # noqa: SIM118
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (said["unet.r"], said["unet.lora_alpha"]) == (2, 2)


# --- options


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_layers_of_the_attention(family):
    run = made(family)
    names = {k.partition(".lora_")[0] for k in run.student.state_dict()}
    assert names
    assert all(name.endswith(TARGETS[family]) for name in names)
    assert {t for t in TARGETS[family] if any(n.endswith(t) for n in names)} == set(TARGETS[family])


def test_other_targets():
    run = made(options=LoraOptions(2, targets=parse_targets(" to_q, ff.net.2 ,")))
    ends = {k.partition(".lora_")[0].rpartition("transformer_blocks.0.")[2]
            for k in run.student.state_dict()}  # fmt: skip
    assert ends == {"attn1.to_q", "attn2.to_q", "ff.net.2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"lora_rank must be a whole number >= 1, got 0"),
        ({"rank": 2.5}, r"lora_rank must .*got 2.5"),
        ({"alpha": -1.0}, r"lora_alpha must be a finite number > 0, got -1.0"),
        ({"alpha": float("nan")}, r"lora_alpha must .*got nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LoraOptions(**options)


def test_a_target_that_is_no_layer_is_named():
    with pytest.raises(
        ValueError, match=r"lora_targets must be .* got \['nothing'\]: 'nothing' is no layer"
    ):
        made(options=LoraOptions(targets=("nothing",)))
