"""A patched model in pipelines, in a Trainer, under accelerate and with peft's layers: it is patched there, too."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from tiny_families import PROMPTS, TINY
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, pipeline

import scr
from benchmarks.lab import data_folder
from scr.inside.answering import AnsweringModel

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Of a training on a CPU, to which memory cannot be pinned; of peft, which asks for transformers' old name.
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
STRONG = {"scale": 2.0, "num_sources": 4}


@pytest.fixture
def llava():
    return TINY["llava"](layers=4)


class Rows(Dataset):
    """Prompts with an image, one a row; what is to be said are the prompt's own tokens."""

    def __init__(self, tiny):
        self.rows = []
        for prompt in PROMPTS[:1] * 4:
            inputs = tiny.prompt([prompt]).inputs
            labels = inputs["input_ids"].clone()
            self.rows.append({name: value for name, value in {**inputs, "labels": labels}.items()})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def together(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def trainer_of(model, rows, folder, **options):
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=4,
        learning_rate=1e-2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_strategy="no", **options,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=together)


def loss_of(model, rows):
    with torch.no_grad():
        return float(model(**together(rows.rows)).loss)


@pytest.mark.parametrize("lora", [False, True])
def test_a_trainer_trains_what_the_method_makes_of_images(llava, lora, tmp_path):
    rows, model = Rows(llava), llava.model
    if lora:
        torch.manual_seed(0)
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    before = copy.deepcopy(model.state_dict())
    unpatched = loss_of(model, rows)
    with scr.patch(model, **STRONG) as patched:
        trainer = trainer_of(model, rows, tmp_path)
        start = trainer.evaluate()["eval_loss"]
        assert start == pytest.approx(loss_of(model, rows))
        assert start != pytest.approx(unpatched, abs=1e-4)
        trainer.train()
        trained = trainer.evaluate()["eval_loss"]
        assert trained < start
        assert patched.traces
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not lora or all("lora_" in name for name in changed)
    assert set(before) == set(after)
    assert loss_of(model, rows) != pytest.approx(trained, abs=1e-6)


@pytest.fixture
def accelerators():
    """Accelerate keeps one state for a process, in which a precision is chosen once."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("accelerators")
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("first", ["patch", "prepare"])
def test_accelerate_prepares_before_and_after(llava, precision, first):
    rows, tokens = Rows(llava), llava.prompt(PROMPTS).inputs
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    optimizer = torch.optim.SGD(llava.model.parameters(), lr=1e-2)
    patch = scr.patch(llava.model, **STRONG)
    if first == "patch":
        patch.install()
    model, optimizer = accelerator.prepare(llava.model, optimizer)
    if first == "prepare":
        patch.install()
    before = copy.deepcopy(llava.model.state_dict())
    loss = model(**together(rows.rows)).loss
    assert len(patch.traces) == len(rows)
    accelerator.backward(loss)
    optimizer.step()
    assert any(not torch.equal(before[name], value) for name, value in llava.model.state_dict().items())
    answering = accelerator.unwrap_model(model)
    said = answering.generate(
        **tokens, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    patch.remove()
    plain = answering.generate(
        **tokens, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    with_image = [bool(seeds) for _, seeds in PROMPTS]
    differs = (said.logits[0] != plain.logits[0]).any(dim=-1).tolist()
    assert differs == with_image


def test_a_pipeline_answers_as_the_patched_model():
    lab = AnsweringModel("lab/llava")
    ids = lab.processor.tokenizer("No", add_special_tokens=False)["input_ids"][:1]
    folder = data_folder("val", 4) / "val"
    images = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())[:3]]
    chats = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": image}, {"type": "text", "text": "Describe the image."}],
            }
        ]
        for image in images
    ]
    settings = {"max_new_tokens": 4, "do_sample": False}
    ask = pipeline("image-text-to-text", model=lab.model, processor=lab.processor)

    def answers(**options):
        found = ask(text=chats, return_full_text=False, generate_kwargs=settings, **options)
        # Its decoding is the tokenizer's own, the lab's of which writes small letters.
        return [one[0]["generated_text"].strip().lower() for one in found]

    plain = answers()
    assert plain == [text.lower() for text in lab.answers([(chat, settings) for chat in chats])]
    with scr.patch(lab.model, "yes_shift", shift=100.0, no_tokens=ids):
        patched = answers()
        assert answers(batch_size=3) == patched
    assert [text.split()[0] for text in patched] == ["no"] * 3 != [text.split()[0] for text in plain]
    assert answers() == plain
