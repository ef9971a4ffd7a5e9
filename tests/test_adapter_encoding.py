"""Labels of every kind of processor: the answer and its end, whatever turns a template writes."""

import pytest
import torch
import transformers as hf
from test_real_processors import picture, tokenizer
from tiny import tiny_llava

import scr
from scr.adapters import Row, load_recipe, seed, train_adapter
from scr.adapters.encoding import encode_rows, format_prompt
from scr.adapters.lora import lora_config, lora_layers

SIDE = {"height": 20, "width": 20}
TURNS = (
    "{% for m in messages %}<open>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}<close>\n{% endfor %}"
    "{% if add_generation_prompt %}<open>assistant\n{% endif %}"
)
BEGUN = "<s>{% for m in messages %}[INST] <image>\n{{ m.content[1].text }} [/INST]{% endfor %}"


def llava(template=None):
    words = tokenizer(["<image>", "<open>", "<close>"])
    images = hf.CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(images, words, patch_size=4, chat_template=template, **options)


def idefics3():
    words = tokenizer(["<fake_token_around_image>", "<image>", "<global-img>"])
    images = hf.Idefics3ImageProcessorPil(size={"longest_edge": 160}, max_image_size={"longest_edge": 40})
    return hf.Idefics3Processor(images, words, image_seq_len=25)


def chameleon():
    words = tokenizer(["<image>", "<racm3:break>", "<eoss>"])
    words.add_special_tokens({"sep_token": "<sep>"})
    images = hf.ChameleonImageProcessorPil(size={"shortest_edge": 20}, crop_size=SIDE)
    return hf.ChameleonProcessor(images, words, image_seq_length=25)


@pytest.fixture
def rows(tmp_path):
    answers = ("Yes", "A red dog.")
    for number, size in enumerate(((64, 64), (30, 90))):
        picture(*size).save(tmp_path / f"{number}.png")
    return [
        Row(name=f"row {number}", image=tmp_path / f"{number}.png", question="Is it?", answer=answer)
        for number, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("make", "between"),
    [(llava, " "), (lambda: llava(TURNS), ""), (lambda: llava(BEGUN), " "), (idefics3, " "), (chameleon, "")],
    ids=["llava", "turns", "begin token in the template", "idefics3", "chameleon"],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_prompt_is_the_benchmarks_and_labels_are_the_answer_and_its_end(rows, make, between, side):
    processor = make()
    words = processor.tokenizer
    words.padding_side = side
    batch = encode_rows(processor, rows, 4096)
    for index, row in enumerate(rows):
        tokens = batch.inputs["input_ids"][index][batch.inputs["attention_mask"][index].bool()]
        answer = words(f"{between}{row.answer}{words.eos_token}", add_special_tokens=False)["input_ids"]
        assert batch.labels[index][batch.labels[index] != -100].tolist() == answer == tokens[-len(answer) :].tolist()
        with _picture(row) as image:
            asked = processor(
                text=[format_prompt(processor, row.question)],
                images=[[image]],
                return_tensors="pt",
                add_special_tokens=not format_prompt(processor, row.question).startswith("<s>"),
            )
        assert torch.equal(asked["input_ids"][0], tokens[: -len(answer)])


def test_a_processor_that_writes_after_the_answer_is_refused(rows):
    processor = llava()

    class Talkative:
        """Ends every text with a word of its own."""

        tokenizer, chat_template = processor.tokenizer, None

        def __call__(self, text, **options):
            return processor(text=[f"{one} over" for one in text], **options)

    with pytest.raises(scr.ConfigError, match=r"a processor that writes after the answer.*row 0"):
        encode_rows(Talkative(), rows, 4096)


def _picture(row):
    from PIL import Image

    return Image.open(row.image).convert("RGB")


def test_accumulated_gradients_are_the_mean_of_the_batches(rows, tmp_path):
    """AdamW does not see their scale, clipping does."""
    rows = [row for row in rows for _ in range(2)][:2]  # answers of one length
    norms = []
    for size, count in ((1, 2), (2, 1)):
        changes = {"rank": 2, "dropout": 0.0, "dtype": "float32", "epochs": 1}
        recipe = load_recipe("refusal", {**changes, "batch_size": size, "accumulation": count})
        trained = train_adapter(*tiny_llava(), rows, recipe, tmp_path / str(size), kind="refusal", base="tiny")
        norms.append(trained.log[0]["norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_teacher_is_in_evaluation_whatever_the_model_is_in():
    model, _ = tiny_llava()
    recipe = load_recipe("refusal", {"rank": 2})
    with lora_layers(model, lora_config(model, recipe, "tiny", None), trainable=True) as tuner:
        model.train()
        with seed.teaching(model, tuner):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
        assert all(module.training for module in model.modules())


def test_divergence_is_in_float32():
    student, teacher = torch.randn(2, 4, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = seed.divergence(student, teacher, 2.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, seed.divergence(student.float(), teacher.float(), 2.0))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_checkpointing_leaves_no_hook_behind(rows, tmp_path):
    model, processor = tiny_llava()
    names = sorted(vars(model))
    changes = {"rank": 2, "dtype": "float32", "epochs": 1, "gradient_checkpointing": True, "batch_size": len(rows)}
    changes |= {"accumulation": 1}
    train_adapter(model, processor, rows, load_recipe("refusal", changes), tmp_path / "a", kind="refusal", base="tiny")
    assert sorted(vars(model)) == names
    assert not model.get_input_embeddings()._forward_hooks
    assert not model.training
