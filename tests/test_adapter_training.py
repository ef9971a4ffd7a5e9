"""Training of adapters: what the loss sees, what the teacher is, and that a kill changes nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import picture, tiny_llava

import scr
from scr.adapters import Row, load_recipe, loop, read_rows, seed, states, train_adapter, write_rows
from scr.adapters.encoding import encode_rows
from scr.adapters.lora import lora_config, lora_layers, trainable_parameters
from scr.adapters.rows import prepare_data
from scr.contrast import confidence, contrast_logits
from scr.perturb import perturb_inputs
from scr.storing.locks import FolderInUseError, alone_in

ROOT = Path(__file__).parent.parent
SMALL = {"rank": 4, "alpha": 8, "learning_rate": 1e-2, "accumulation": 2, "dtype": "float32"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    made = []
    for number in range(6):
        picture(number).save(folder / f"{number}.png")
        noun = ("dog", "cat")[number % 2]
        made.append(
            {
                "image": f"{number}.png",
                "question": f"is there a {noun} in the image ?",
                "answer": "yes a dog ."[: 3 + number],
            }
        )
    write_rows(folder / "rows.jsonl", made)
    return read_rows(folder / "rows.jsonl")


@pytest.fixture
def tiny():
    return tiny_llava()


@pytest.fixture
def adapted(tiny):
    """A model with an adapter that has been trained a little, as it seems: it says something else."""
    model, processor = tiny
    recipe = load_recipe("seed", SMALL)
    with lora_layers(model, lora_config(model, recipe, "tiny", None), trainable=True) as tuner:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        yield model, processor, tuner, recipe


class TestLabels:
    def test_they_cover_the_answer_and_its_end_alone(self, tiny, rows):
        _, processor = tiny
        batch = encode_rows(processor, rows, 2048)
        tokenizer = processor.tokenizer
        for index, row in enumerate(rows):
            labelled = batch.labels[index] != -100
            assert batch.labels[index][labelled].tolist() == [
                *tokenizer(row.answer, add_special_tokens=False)["input_ids"],
                tokenizer.eos_token_id,
            ]
            assert torch.equal(batch.labels[index][labelled], batch.inputs["input_ids"][index][labelled])
            image = batch.inputs["input_ids"][index] == tokenizer.convert_tokens_to_ids("<image>")
            assert image.sum() == 36
            assert not (labelled & image).any()
            assert not (labelled & (batch.inputs["attention_mask"][index] == 0)).any()
            # The first label follows the prompt's last token.
            first = int(labelled.nonzero()[0])
            assert tokenizer.decode(batch.inputs["input_ids"][index][:first]).endswith("ASSISTANT :")

    def test_the_first_answer_token_is_learnt(self, tiny, rows):
        """Places are one before labels: the last token of the prompt is where the first answer token is said."""
        batch = encode_rows(tiny[1], rows[:1], 2048)
        places, labels = batch.places[0].nonzero().flatten(), (batch.labels[0] != -100).nonzero().flatten()
        assert torch.equal(places, labels - 1)
        assert torch.equal(batch.targets, batch.labels[0][labels])

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_on_either_side(self, tiny, rows, side):
        _, processor = tiny
        processor.tokenizer.padding_side = side
        batch = encode_rows(processor, rows, 2048)
        counts = (batch.labels != -100).sum(dim=1).tolist()
        alone = [int((encode_rows(processor, [row], 2048).labels != -100).sum()) for row in rows]
        assert counts == alone

    def test_a_long_answer_is_cut_and_an_image_never(self, tiny, rows):
        model, processor = tiny
        whole = encode_rows(processor, rows, 2048)
        shortest = min(int((row == -100).sum()) for row in whole.labels) + 1
        length = int(whole.inputs["attention_mask"].sum(dim=1).max())
        assert shortest < length
        cut = encode_rows(processor, rows, length - 1)
        assert int(cut.inputs["attention_mask"].sum(dim=1).max()) == length - 1
        assert ((cut.inputs["input_ids"] == 4).sum(dim=1) == 36).all()
        assert ((cut.labels != -100).sum(dim=1) >= 1).all()
        model(**cut.inputs)
        with pytest.raises(scr.ConfigError, match=r"rows\.jsonl, line 1; expected fewer than max_tokens = 30"):
            encode_rows(processor, rows, 30)

    def test_a_picture_that_is_none(self, tiny, rows, tmp_path):
        (tmp_path / "0.png").write_text("no picture")
        with pytest.raises(scr.ConfigError, match=r"no picture.*line 1"):
            encode_rows(tiny[1], [dataclasses.replace(rows[0], image=tmp_path / "0.png")], 2048)


class TestTeacher:
    def test_it_is_the_base_model_to_the_bit(self, adapted, rows):
        model, processor, tuner, _ = adapted
        batch = encode_rows(processor, rows, 2048)
        base, _ = tiny_llava()
        with torch.no_grad():
            expected = base(**batch.inputs).logits[:, :-1][batch.places]
        with seed.teaching(model, tuner):
            found = seed.label_logits(model, batch, batch.inputs)
        assert torch.equal(found, expected)
        assert not torch.allclose(seed.label_logits(model, batch, batch.inputs), expected)

    def test_the_loss_is_that_of_the_page(self, adapted, rows):
        """0.7·T²·KL(student ‖ purified) + 0.3·CE, T = 2, written out."""
        model, processor, tuner, recipe = adapted
        batch = encode_rows(processor, rows, 2048)
        base, _ = tiny_llava()
        with torch.no_grad():
            clean = base(**batch.inputs).logits[:, :-1][batch.places]
            noisy_inputs = perturb_inputs(base, batch.inputs, recipe.distillation.perturbation)
            noisy = base(**noisy_inputs).logits[:, :-1][batch.places]
            for layer in model.modules():
                layer.training = False  # dropout would be drawn anew
            student = model(**batch.inputs).logits[:, :-1][batch.places]
        loss_of = seed.SEEDLoss(recipe.distillation)
        seen = [-0.1 * number for number in range(40)]
        loss_of.remember(seen)
        quarters = torch.tensor(seen).quantile(torch.tensor([0.25, 0.5, 0.75]))
        strengths = torch.tensor([1.1, 0.8, 0.6, 0.4])[torch.bucketize(confidence(clean), quarters)]
        purified = contrast_logits(clean, noisy, strengths)
        log_s, log_t = (student / 2).log_softmax(-1), (purified / 2).log_softmax(-1)
        distilled = 4 * (log_s.exp() * (log_s - log_t)).sum(-1).mean()
        supervised = torch.nn.functional.cross_entropy(student, batch.targets)
        with torch.no_grad():
            found = loss_of(model, tuner, batch)
        assert float(found.total) == pytest.approx(float(0.7 * distilled + 0.3 * supervised), rel=1e-4)
        assert found.parts["dist"] == pytest.approx(float(distilled), rel=1e-4)
        assert found.confidences == pytest.approx(confidence(clean).tolist(), rel=1e-4)
        assert len(set(strengths.tolist())) > 1

    def test_everything_is_restored_after_an_exception(self, adapted, rows):
        model, processor, tuner, _ = adapted
        batch = encode_rows(processor, rows, 2048)
        state = [(p.requires_grad, p.clone()) for p in model.parameters()], [m.training for m in model.modules()]
        before = seed.label_logits(model.eval(), batch, batch.inputs)
        for module, mode in zip(model.modules(), state[1], strict=True):
            module.training = mode
        with pytest.raises(ZeroDivisionError), seed.teaching(model, tuner):
            raise ZeroDivisionError
        assert [m.training for m in model.modules()] == state[1]
        assert [p.requires_grad for p in model.parameters()] == [flag for flag, _ in state[0]]
        assert all(torch.equal(p, old) for p, (_, old) in zip(model.parameters(), state[0], strict=True))
        assert torch.equal(seed.label_logits(model.eval(), batch, batch.inputs), before)
        assert torch.is_grad_enabled()

    def test_only_the_adapter_gets_gradients(self, adapted, rows):
        model, processor, tuner, recipe = adapted
        seed.SEEDLoss(recipe.distillation)(model, tuner, encode_rows(processor, rows, 2048)).total.backward()
        with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert with_gradient
        assert all("lora_" in name and "language_model" in name for name in with_gradient)


def test_divergence_by_hand():
    student, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.5, -1.0]])
    p, q = (student / 2).softmax(-1)[0].tolist(), (teacher / 2).softmax(-1)[0].tolist()
    reverse = 4 * sum(a * torch.tensor(a / b).log().item() for a, b in zip(p, q, strict=True))
    forward = 4 * sum(b * torch.tensor(b / a).log().item() for a, b in zip(p, q, strict=True))
    assert float(seed.divergence(student, teacher, 2.0)) == pytest.approx(reverse, rel=1e-5)
    assert float(seed.divergence(student, teacher, 2.0, "forward")) == pytest.approx(forward, rel=1e-5)
    assert float(seed.divergence(student, student, 2.0)) == 0


def test_a_token_that_the_teacher_bans_has_no_part():
    student = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    loss = seed.divergence(student, torch.tensor([[1.0, 0.5, -torch.inf]]), 2.0).sum()
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_targets_are_the_language_models_alone(tiny):
    """CLIP's tower has q_proj, k_proj and v_proj too; a suffix would hit them."""
    model, _ = tiny
    recipe = load_recipe("seed", SMALL)
    config = lora_config(model, recipe, "tiny", None)
    assert len(config.target_modules) == 8 * 4
    assert all("language_model" in name for name in config.target_modules)
    with lora_layers(model, config, trainable=True):
        counts = trainable_parameters(model)
    assert counts["rest"] == 0
    assert counts["language model"] == 8 * 4 * (2 * (32 + 32) + 2 * (32 + 16))
    with pytest.raises(scr.ConfigError, match=r"got targets \['c_attn'\]; expected some of"):
        lora_config(model, dataclasses.replace(recipe, targets=("q_proj", "c_attn")), "tiny", None)


def losses(trained):
    return [entry["loss"] for entry in trained.log]


def run(folder, tiny, rows, kind="seed", changes=None, **options):
    recipe = load_recipe(kind, {**SMALL, **(changes or {})})
    return train_adapter(*tiny, rows, recipe, folder, kind=kind, base="tiny", **options)


@pytest.mark.parametrize("kind", ["seed", "refusal"])
def test_training_learns_and_leaves_the_model_alone(tiny, rows, tmp_path, kind):
    model, processor = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = run(tmp_path / "a", tiny, rows, kind, {"epochs": 4})
    assert len(trained.log) == 12
    assert sum(losses(trained)[-3:]) < 0.8 * sum(losses(trained)[:3])
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    batch = encode_rows(processor, rows, 2048)

    def cross_entropy():
        with torch.no_grad():
            logits = seed.label_logits(model, batch, batch.inputs)
        return float(torch.nn.functional.cross_entropy(logits, batch.targets))

    plain = cross_entropy()
    with scr.adapter(model, tmp_path / "a"):
        assert cross_entropy() < plain
    entry = trained.log[0]
    assert {"step", "loss", "sup", "lr", "nan", "it_s", "eta_s"} <= set(entry)
    assert ({"dist", "strength", "confidence"} <= set(entry)) == (kind == "seed")
    assert [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()] == trained.log


def test_the_same_training_twice_gives_the_same_adapter(tiny, rows, tmp_path):
    for name in ("a", "b"):
        torch.manual_seed(len(name))
        run(tmp_path / name, tiny, rows)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_training_that_was_stopped_goes_on_with_the_same_curve(tiny, rows, tmp_path):
    changes = {"epochs": 2, "save_every": 2}
    whole = run(tmp_path / "whole", tiny, rows, changes=changes)
    stopped = run(tmp_path / "stopped", tiny, rows, changes=changes, stop_after=3)
    assert not stopped.finished
    with pytest.raises(scr.ConfigError, match="state of another training"):
        run(tmp_path / "stopped", tiny, rows, changes={**changes, "rank": 2})
    resumed = run(tmp_path / "stopped", tiny, rows, changes=changes)
    assert losses(resumed) == losses(whole)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not (tmp_path / "stopped" / "state.pt").exists()
    with pytest.raises(scr.ConfigError, match="an adapter is there already"):
        run(tmp_path / "stopped", tiny, rows, changes=changes)


def test_one_training_at_a_time_in_a_folder(tiny, rows, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    with alone_in(folder), pytest.raises(FolderInUseError, match="another process writes to this folder"):
        run(folder, tiny, rows)
    assert list(folder.iterdir()) == [], "of the lock nothing is left, and nothing was trained"
    run(folder, tiny, rows)
    assert not (folder / ".lock").exists()


def test_cached_targets_change_nothing(tiny, rows, tmp_path, monkeypatch):
    """One row per forward, so that no row's padding differs from epoch to epoch."""
    forwards = []
    real = seed.label_logits
    monkeypatch.setattr(seed, "label_logits", lambda *args: forwards.append(1) or real(*args))
    counts, curves = [], []
    for cached in (False, True):
        changes = {"epochs": 3, "distillation.cache_teacher": cached}
        curves.append(losses(run(tmp_path / str(cached), tiny, rows, changes=changes)))
        counts.append(len(forwards))
        forwards.clear()
    assert curves[0] == curves[1]
    assert counts == [3 * 18, 18 + 2 * 6]


@pytest.mark.parametrize(
    "changes",
    [
        {"distillation.divergence": "forward"},
        {"distillation.perturbation": {"name": "features", "image_keep": 0.3}},
        {"distillation.perturbation": {"name": "diffusion", "noise_step": 900}},
        {"gradient_checkpointing": True},
        {"batch_size": 3, "accumulation": 1},
    ],
    ids=["forward", "features", "diffusion", "checkpointing", "batches"],
)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_options(tiny, rows, tmp_path, changes):
    trained = run(tmp_path, tiny, rows, changes=changes)
    plain = run(tmp_path / "plain", tiny, rows)
    assert all(entry["nan"] == 0 for entry in trained.log)
    same = losses(trained) == pytest.approx(losses(plain), rel=1e-4)
    assert same == ("gradient_checkpointing" in changes)


def test_a_teacher_that_says_the_same_is_warned_of(tiny, rows, tmp_path):
    changes = {"epochs": 4, "learning_rate": 1e-9, "distillation.perturbation.image_keep": 1.0}
    with pytest.warns(UserWarning, match="the mechanism is not active"):
        run(tmp_path, tiny, rows, changes=changes)


def test_a_step_without_a_finite_gradient_is_left_out(tiny, rows, tmp_path, monkeypatch):
    real, calls = seed.SEEDLoss.__call__, []

    def sometimes(self, model, tuner, batch):
        loss = real(self, model, tuner, batch)
        calls.append(1)
        return dataclasses.replace(loss, total=loss.total * float("nan")) if len(calls) == 3 else loss

    monkeypatch.setattr(seed.SEEDLoss, "__call__", sometimes)
    with pytest.warns(UserWarning, match=r"step 2: the gradient is not finite.*1 so far"):
        trained = run(tmp_path, tiny, rows)
    assert [entry["nan"] for entry in trained.log] == [0, 1, 1]
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_confidences_that_are_no_numbers_are_forgotten(tiny, rows, tmp_path, monkeypatch):
    """The step in which a model overflows is left out, and those after it have strengths."""
    real, calls = seed.label_logits, []

    def overflowing(*given):
        calls.append(1)
        logits = real(*given)
        return logits * float("nan") if len(calls) in (7, 8, 9) else logits

    monkeypatch.setattr(seed, "label_logits", overflowing)
    with pytest.warns(UserWarning, match=r"step 2: the gradient is not finite.*1 so far"):
        trained = run(tmp_path, tiny, rows, changes={"epochs": 2})
    assert [entry["nan"] for entry in trained.log] == [0, 1, 1, 1, 1, 1]
    assert len({entry["strength"] for entry in trained.log[2:]}) > 1


def test_a_training_draws_nothing_of_a_gpus_own(tiny, rows, tmp_path, monkeypatch):
    """`torch.manual_seed` would begin the draws of every GPU anew, of which a process may have others."""
    begun = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", begun.append)
    before = torch.random.get_rng_state()
    run(tmp_path, tiny, rows, stop_after=1)
    assert not begun
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_state_that_was_saved_on_a_gpu_is_read_where_there_is_none(tmp_path, monkeypatch):
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        states.write_state(tmp_path, {"key": "k", "weights": [torch.ones(2)]})
    (weights,) = states.read_state(tmp_path, "k")["weights"]
    assert weights.device.type == "cpu"
    assert torch.equal(weights, torch.ones(2))


def test_a_training_on_quantized_weights_is_another_one(tiny, rows, tmp_path):
    run(tmp_path, tiny, rows, changes={"save_every": 1}, stop_after=2)
    tiny[0].is_quantized = True
    with pytest.raises(scr.ConfigError, match="state of another training"):
        run(tmp_path, tiny, rows, changes={"save_every": 1})


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_interrupt_while_checkpointing_is_put_on_leaves_it_off(tiny, rows, tmp_path, monkeypatch):
    model, enable = tiny[0], tiny[0].activation_checkpointing_enable
    before = set(vars(model))

    def interrupted(*given):
        enable(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "activation_checkpointing_enable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tiny, rows, changes={"gradient_checkpointing": True})
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert set(vars(model)) - {"activation_checkpointing_enable"} == before
    assert not model.training


def test_processes_that_cannot_share_the_work(tiny, rows, tmp_path):
    with pytest.raises(scr.ConfigError, match="accumulation 2 for 3 processes; expected a multiple of 3"):
        run(tmp_path, tiny, rows, team=scr.adapters.Team(0, 3))


PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
import json, torch; torch.set_num_threads(1)
from pathlib import Path
from tiny import tiny_llava
from scr.adapters import join_team, load_recipe, read_rows, train_adapter
changes = json.loads(sys.argv[3])
with join_team() as team:
    train_adapter(*tiny_llava(), read_rows(Path(sys.argv[1])), load_recipe("seed", changes), Path(sys.argv[2]),
          kind="seed", base="tiny", team=team)
"""


def program(rows, folder, changes, launcher=()):
    data = rows[0].image.parent / "rows.jsonl"
    code = folder.parent / "program.py"
    code.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    command = [*launcher, str(code), str(data), str(folder), json.dumps({**SMALL, **changes})]
    return [sys.executable, *command], {**os.environ, "PYTHONPATH": str(ROOT)}


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_killed_at_any_moment(tiny, rows, tmp_path):
    changes = {"epochs": 60, "save_every": 5}
    command, environment = program(rows, tmp_path / "killed", changes)
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "state.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adapter_model.safetensors").exists()
    done = len(torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["log"])
    recipe = load_recipe("seed", {**SMALL, **changes})
    resumed = train_adapter(*tiny, rows, recipe, tmp_path / "killed", kind="seed", base="tiny", stop_after=3)
    whole = train_adapter(*tiny, rows, recipe, tmp_path / "whole", kind="seed", base="tiny", stop_after=done + 3)
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)  # the other process had one thread
    assert len(resumed.log) == done + 3


def test_two_processes_give_the_curve_of_one(tiny, rows, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29671"]
    command, environment = program(rows, tmp_path / "two", {"epochs": 2}, launcher)
    done = subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = run(tmp_path / "one", tiny, rows, changes={"epochs": 2})
    two = read_log(tmp_path / "two")
    for name in ("loss", "dist", "sup", "strength", "confidence", "norm"):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one.log], rel=1e-4)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-4, rtol=1e-3)


class TestRecipes:
    def test_the_files_have_the_sources_values(self):
        recipe = load_recipe("seed")
        assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.learning_rate) == (64, 128, 0.05, 2e-6)
        assert (recipe.accumulation, recipe.dtype, recipe.targets[-1]) == (8, "bfloat16", "o_proj")
        settings = recipe.distillation
        assert (settings.temperature, settings.distil_weight, settings.divergence) == (2.0, 0.7, "reverse")
        assert (settings.strengths, settings.history) == ((1.1, 0.8, 0.6, 0.4), 1000)
        assert settings.perturbation.image_keep == 0.3
        refusal = load_recipe("refusal")
        assert (refusal.rank, refusal.alpha, refusal.learning_rate, refusal.epochs) == (32, 64, 1e-4, 10)
        assert (refusal.targets, refusal.distillation) == (("q_proj", "k_proj", "v_proj"), None)

    @pytest.mark.parametrize("name", ["seed", "refusal"])
    def test_every_value_has_a_reason(self, name):
        for line in (ROOT / "scr" / "adapters" / f"{name}.toml").read_text().splitlines():
            if "=" in line.partition("#")[0]:
                assert len(line.partition("#")[2].split()) > 0, line

    @pytest.mark.parametrize("name", ["seed", "refusal"])
    def test_a_round_trip(self, name):
        recipe = load_recipe(name)
        assert scr.adapters.TrainingRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"rang": 4}, "Did you mean 'rank'"),
            ({"rank": 0}, "rank out of range"),
            ({"targets": []}, r"targets of another kind: got \[\]; expected a list, each a text, not empty"),
            ({"dtype": "int8"}, "unknown dtype"),
            ({"distillation.divergence": "both"}, "unknown divergence"),
            ({"distillation.temperature": 0}, "temperature out of range"),
            ({"distillation.strengths": [-1]}, "strengths"),
            ({"rank.x": 1}, "no table"),
        ],
    )
    def test_bad_values(self, changes, match):
        with pytest.raises(scr.ConfigError, match=match):
            load_recipe("seed", changes)

    def test_bad_files(self, tmp_path):
        with pytest.raises(scr.ConfigError, match="recipe cannot be read"):
            load_recipe(str(tmp_path / "none.toml"))
        (tmp_path / "some.toml").write_text("rank = 4\n")
        with pytest.raises(scr.ConfigError, match=r"fields of TrainingRecipe are missing: got \['rank'\]"):
            load_recipe(str(tmp_path / "some.toml"))

    def test_the_rate(self):
        assert [loop.rate(step, 100, 0.04) for step in (0, 3, 4)] == [0.25, 1.0, 1.0]
        assert loop.rate(52, 100, 0.04) == pytest.approx(0.5)
        assert loop.rate(99, 100, 0.04) < 1e-3

    def test_every_row_once_per_epoch(self):
        seen = [row for step in range(5) for row in loop.rows_of_step(step, 4, 10, 0)]
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        assert seen[:10] != seen[10:]


class TestRows:
    @pytest.mark.parametrize(
        ("line", "match"),
        [
            ("{", "line 2 is no JSON"),
            ('{"image": "0.png"}', "no row.*KeyError"),
            ('{"image": "0.png", "question": " ", "answer": "yes"}', "empty field.*line 2"),
            ('{"image": "9.png", "question": "is it ?", "answer": "yes"}', "no such image.*'9.png'.*line 2"),
            ("[1]", "no row"),
        ],
    )
    def test_bad_lines(self, rows, line, match):
        path = rows[0].image.parent / "bad.jsonl"
        good = '{"image": "0.png", "question": "is it ?", "answer": "yes"}'
        path.write_text(f"{good}\n{line}\n")
        with pytest.raises(scr.ConfigError, match=match):
            read_rows(path)

    def test_empty_and_missing_files(self, tmp_path):
        (tmp_path / "empty.jsonl").write_text("\n")
        for name, match in (("empty", "no training data"), ("none", "cannot read")):
            with pytest.raises(scr.ConfigError, match=match):
                read_rows(tmp_path / f"{name}.jsonl")

    def test_prepare_data(self, rows):
        folder = rows[0].image.parent

        def talk(image, *turns):
            names = ("human", "gpt") * 3
            return {
                "image": image,
                "conversations": [{"from": n, "value": v} for n, v in zip(names, turns, strict=False)],
            }

        good = [talk(f"{n}.png", "<image>\nis it ?", "yes", "and ?", "no") for n in range(6)]
        bad = [
            talk("9.png", "<image>\nis it ?", "yes"),
            talk(None, "is it ?", "yes"),
            talk("0.png", "is it ?", "yes"),
            talk("0.png", "<image>", "yes"),
            talk("0.png", "<image> is it ?"),
            "nothing",
        ]
        every = prepare_data([*good, *bad], folder)
        assert every.rows == [{"image": f"{n}.png", "question": "is it ?", "answer": "yes"} for n in range(6)]
        assert every.skipped == {
            "image file not there": 1,
            "no image": 1,
            "not exactly one image in the first question": 1,
            "empty question or answer": 1,
            "no question and answer": 1,
            "no conversation": 1,
        }
        some = prepare_data(good, folder, 3, seed=1)
        assert some == prepare_data(good, folder, 3, seed=1)
        assert len(some.rows) == 3
        assert some.rows != prepare_data(good, folder, 3, seed=2).rows
        assert isinstance(rows[0], Row)
