"""`scr.describe`: images of any kind in, texts with probabilities and doubts out, whatever is on the model."""

import dataclasses
import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from described import calibration
from PIL import Image
from test_adapters import write_adapter
from tiny import picture, tiny_llava

import scr
from scr import AdapterLoadError, ConfigError, Description, Doubt, Token
from scr.describing.answering import answer_batch
from scr.describing.doubts.words import ContentWord
from scr.describing.encoding import encode_prompts
from scr.describing.images import ImageError, read_image
from scr.describing.tokens import token_at, write

pytestmark = pytest.mark.usefixtures("one_thread")
SPECIALS = [0, 1, 2, 3, 4]  # of the tiny tokenizer; its image token among them
OPTIONS = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": SPECIALS}
CALIBRATION = calibration(0.0, confidence=-1.0, recheck=-0.5)


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava()


def alone(model, processor, image, prompt, **options):
    """Text and tokens of one image, generated here, and the logits of each step."""
    inputs = encode_prompts(model, processor, [prompt], [image])
    out = model.generate(**inputs, **{**OPTIONS, **options}, output_logits=True, return_dict_in_generate=True)
    tokens = out.sequences[0, inputs["input_ids"].shape[1] :]
    logs = torch.stack([step[0].float().log_softmax(dim=-1) for step in out.logits])
    return processor.tokenizer.decode(tokens), tokens, logs.gather(1, tokens[:, None])[:, 0].exp()


def test_texts_and_probabilities_are_those_of_each_image_alone(tiny):
    model, processor = tiny
    images = [picture(seed) for seed in (1, 2, 3)]
    found = scr.describe(model, processor, images, "is there a dog ?", batch_size=2, **OPTIONS)
    assert [one.image for one in found] == ["image 1", "image 2", "image 3"]
    for one, image in zip(found, images, strict=True):
        text, tokens, probabilities = alone(model, processor, image, "is there a dog ?")
        assert isinstance(one, Description)
        assert isinstance(one.tokens[0], Token)
        assert one.text == text.strip()
        assert "".join(token.text for token in one.tokens) == one.text
        assert len(one.tokens) == len(tokens) == 6
        assert [token.probability for token in one.tokens] == pytest.approx(probabilities.tolist(), rel=1e-3)
        assert (one.prompt, one.method, one.error, one.calibration) == ("is there a dog ?", "none", None, None)
        assert one.milliseconds > 0
    assert len({one.text for one in found}) > 1, "else any image would do"


def saying(model, processor, text):
    """Arguments of `generate` that let nothing else be said after `picture(1)`; how likely it is stays the model's."""
    words = [processor.tokenizer.convert_tokens_to_ids(word) for word in text.split()]
    start = encode_prompts(model, processor, ["is there a dog ?"], [picture(1)])["input_ids"].shape[1]
    allowed = {"prefix_allowed_tokens_fn": lambda row, ids: [words[len(ids) - start]]}
    return {"max_new_tokens": len(words), "do_sample": False, **allowed}


def test_what_is_doubtful_is_left_out(tiny):
    model, processor = tiny
    options = saying(model, processor, "it is a cat ? there is a dog")
    certain = dataclasses.replace(CALIBRATION, intercept=50.0, weights={"confidence": 0.0})
    asked = {"doubts": ["confidence"], "calibration": certain, **options}
    (whole,) = scr.describe(model, processor, picture(1), "is there a dog ?", **asked)
    (left,) = scr.describe(model, processor, picture(1), "is there a dog ?", drop_above=0.8, **asked)
    assert [one.score for one in whole.doubts] == [1.0, 1.0]
    assert whole.text == "it is a cat ? there is a dog"
    assert left.text == "it is a cat ?"
    assert left.tokens == whole.tokens[:5]
    assert left.doubts == whole.doubts[:1]


def test_nouns_that_the_calibration_does_not_know_have_no_score(tiny, monkeypatch):
    model, processor = tiny
    found = [ContentWord((2, 5), "dog", "dog"), ContentWord((6, 9), "cat", None)]
    monkeypatch.setattr("scr.describing.describe.content_words", lambda text: found)
    options = saying(model, processor, "a dog cat")
    (one,) = scr.describe(model, processor, picture(1), "is there a dog ?", calibration=CALIBRATION, **options)
    assert [(doubt.word, doubt.score is None) for doubt in one.doubts] == [("dog", False), ("cat", True)]


def test_a_text_ends_where_the_caller_says(tiny):
    model, processor = tiny
    whole = scr.describe(model, processor, [picture(1), picture(2)], "is there a dog ?", doubts=(), **OPTIONS)
    words = whole[0].text.split()
    end = processor.tokenizer.convert_tokens_to_ids(words[1])
    assert words[0] != words[1]
    ended = scr.describe(
        model, processor, [picture(1), picture(2)], "is there a dog ?", doubts=(), eos_token_id=end, **OPTIONS
    )
    assert ended[0].text == words[0]
    assert [token.text for token in ended[0].tokens] == words[:1]


class Recorder:
    """Notes what `generate` gets, and says one token."""

    generation_config = SimpleNamespace(eos_token_id=None)

    def generate(self, input_ids, **options):
        self.options = options
        return torch.cat([input_ids, torch.ones(len(input_ids), 1, dtype=torch.long)], dim=1)


@pytest.mark.parametrize(
    ("given", "most"),
    [({}, 512), ({"max_new_tokens": 7}, 7), ({"max_length": 9}, None), ({"generation_config": 0}, None)],
)
def test_texts_are_cut_off_late_unless_the_caller_says_otherwise(tiny, given, most):
    model = Recorder()
    answers, milliseconds = answer_batch(model, tiny[1], {"input_ids": torch.zeros(2, 3, dtype=torch.long)}, [], given)
    assert answers == [[1], [1]]
    assert milliseconds > 0
    assert model.options.get("max_new_tokens") == most
    assert model.options["return_dict_in_generate"] is False


def test_doubts_are_of_words_and_scored_by_a_calibration_alone(tiny):
    model, processor = tiny
    text = "a dog . it is one cat"
    options = saying(model, processor, text)
    (bare,) = scr.describe(model, processor, picture(1), "is there a dog ?", doubts=("confidence",), **options)
    assert bare.text == text
    assert [(one.word, one.category, one.score, one.evidence, one.recheck) for one in bare.doubts] == [
        ("dog", "dog", None, None, None),
        ("cat", "cat", None, None, None),
    ]
    assert isinstance(bare.doubts[0], Doubt)
    assert bare.doubts[0].confidence == pytest.approx(bare.tokens[1].probability)
    assert bare.doubts[1].confidence == pytest.approx(bare.tokens[-1].probability)
    (full,) = scr.describe(model, processor, picture(1), "is there a dog ?", calibration=CALIBRATION, **options)
    for one in full.doubts:
        values = {"confidence": one.confidence, "recheck": one.recheck}
        assert one.score == pytest.approx(CALIBRATION.score(values))
        assert one.evidence is not None
    assert full.calibration == "mine"
    (none,) = scr.describe(model, processor, picture(1), "is there a dog ?", doubts=(), **options)
    assert none.doubts == ()
    assert none.tokens == bare.tokens


def test_methods_and_adapters_are_on_while_it_answers_and_off_after(tiny, tmp_path):
    model, processor = tiny
    image = picture(1)
    plain = alone(model, processor, image, "is there a dog ?")[0]
    settings = {"contrast": 60.0}
    with scr.patch(model, "purified", **settings):
        purified = alone(model, processor, image, "is there a dog ?")[0]
    config = scr.PurifiedConfig(**settings)
    for method in (config, [config], ["scr", config]):
        (one,) = scr.describe(model, processor, [image], "is there a dog ?", method=method, doubts=(), **OPTIONS)
        assert one.method == ("scr+purified" if len(np.atleast_1d(method)) == 2 else "purified")
        assert (one.text == purified.strip()) or one.method == "scr+purified"
    assert plain != purified
    source = write_adapter(tmp_path / "adapter", model)
    with scr.adapter(model, source):
        adapted, _, probabilities = alone(model, processor, image, "is there a dog ?")
    (one,) = scr.describe(model, processor, [image], "is there a dog ?", adapter=source, doubts=(), **OPTIONS)
    assert one.text == adapted.strip() != plain.strip()
    assert [token.probability for token in one.tokens] == pytest.approx(probabilities.tolist(), rel=1e-3)
    assert one.method == str(source)
    (one,) = scr.describe(model, processor, [image], "x", adapter=source, method="none", doubts=(), **OPTIONS)
    assert one.method == str(source)
    (one,) = scr.describe(model, processor, [image], "x", adapter=source, method="scr", doubts=(), **OPTIONS)
    assert one.method == f"{source}, scr"
    assert alone(model, processor, image, "is there a dog ?")[0] == plain


def test_probabilities_are_the_models_own_whatever_method_chose_the_words(tiny):
    model, processor = tiny
    config = scr.PurifiedConfig(contrast=60.0)
    (one,) = scr.describe(model, processor, picture(1), "is there a dog ?", method=config, doubts=(), **OPTIONS)
    (own,) = scr.describe(model, processor, picture(1), "is there a dog ?", doubts=(), **OPTIONS)
    ids = [processor.tokenizer.convert_tokens_to_ids(token.text.strip()) for token in one.tokens]
    inputs = encode_prompts(model, processor, ["is there a dog ?"], [picture(1)])
    with torch.no_grad():
        longer = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
        logits = model(input_ids=longer, pixel_values=inputs["pixel_values"]).logits[0]
    rows = logits[inputs["input_ids"].shape[1] - 1 : -1].softmax(dim=-1)
    assert [token.probability for token in one.tokens] == pytest.approx(rows[range(len(ids)), ids].tolist(), rel=1e-3)
    assert one.text != own.text


def test_what_is_broken_is_named_and_the_others_go_on(tiny, tmp_path):
    model, processor = tiny
    picture(2).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    images = [tmp_path / "bad.jpg", str(tmp_path / "good.png"), tmp_path / "missing.png", "https://a.b/c.jpg", object()]
    found = scr.describe(model, processor, images, "is there a dog ?", batch_size=2, **OPTIONS)
    assert [one.image for one in found] == [str(one) for one in images[:4]] + ["image 5"]
    assert [one.error is None for one in found] == [False, True, False, False, False]
    assert found[1].text == alone(model, processor, picture(2), "is there a dog ?")[0].strip()
    for one, reason in zip(
        found, ["UnidentifiedImageError", "", "FileNotFoundError", "from a network", ""], strict=True
    ):
        assert reason in (one.error or "")
        assert one.error is None or not (one.text or one.tokens or one.doubts)


def test_what_the_processor_refuses_is_named_too(tiny, monkeypatch):
    model, processor = tiny
    real = type(processor).__call__

    def refuse(self, *args, images, **kwargs):
        if any(image.width == 1 for row in images for image in row):
            raise ValueError("too thin")
        return real(self, *args, images=images, **kwargs)

    monkeypatch.setattr(type(processor), "__call__", refuse)
    thin = Image.new("RGB", (1, 9))
    found = scr.describe(model, processor, [picture(1), thin, picture(2)], "is there a dog ?", **OPTIONS)
    assert "a picture that the processor refuses: got 1 × 9 pixels (ValueError: too thin)" in found[1].error
    assert found[0].text
    assert found[2].text

    def fail(self, *args, images, **kwargs):
        if len(images) > 1:
            raise RuntimeError("whole batches fail")
        return real(self, *args, images=images, **kwargs)

    monkeypatch.setattr(type(processor), "__call__", fail)
    with pytest.raises(RuntimeError, match="whole batches fail"):
        scr.describe(model, processor, [picture(1), picture(2)], "is there a dog ?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doubts": ["confidense"]}, "unknown measure of doubt: got 'confidense'; .*confidence"),
        ({"calibration": CALIBRATION, "doubts": ["confidence"]}, "got 'mine' without recheck"),
        ({"drop_above": 0.8}, "nothing to drop by"),
        ({"calibration": CALIBRATION, "drop_above": 8}, "drop_above out of range: got 8"),
        ({"batch_size": 0}, "batch_size out of range: got 0"),
        ({"num_return_sequences": 2}, "several answers per image"),
        ({"method": "nothing"}, "unknown method"),
        ({"calibration": "nothing"}, "unknown calibration"),
    ],
)
def test_what_cannot_be_meant_is_refused(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        scr.describe(*tiny, picture(1), **options)
    with pytest.raises(ConfigError, match="no images: got a int"):
        scr.describe(*tiny, 5)
    with pytest.raises(AdapterLoadError):
        scr.describe(*tiny, picture(1), adapter="lab/nothing")


def test_padding_is_on_the_left_whatever_the_tokenizer_does(tiny):
    model, processor = tiny
    processor.tokenizer.padding_side = "right"
    try:
        inputs = encode_prompts(model, processor, ["is there a dog ?", "dog"], [picture(1), picture(2)])
        assert processor.tokenizer.padding_side == "right"
    finally:
        processor.tokenizer.padding_side = "left"
    assert inputs["attention_mask"][1].tolist() == sorted(inputs["attention_mask"][1].tolist())
    assert not inputs["attention_mask"][1].all()


class Letters:
    """Decodes bytes, two tokens to an "é", with a special token and words that a later token changes."""

    def decode(self, tokens, skip_special_tokens):
        text = b"".join(token for token in tokens if token != b"<e>").decode("utf-8", "replace")
        return text.replace(" .", ".")


def test_tokens_write_their_part_of_the_text():
    tokens = [b" A", b" caf", b"\xc3", b"\xa9", b" .", b"<e>"]
    text, spans = write(Letters(), tokens)
    assert text == "A café."
    assert [text[slice(*span)] for span in spans] == ["A", " caf", "", "é", ".", ""]
    assert [token_at(spans, place) for place in range(len(text))] == [0, 1, 1, 1, 1, 3, 4]
    assert write(Letters(), []) == ("", [])


def stripes():
    """Red above blue, taller than wide."""
    image = Image.new("RGB", (20, 30), "red")
    image.paste("blue", (0, 15, 20, 30))
    return image


def corners(image):
    return [image.getpixel(place) for place in ((2, 2), (image.width - 3, image.height - 3))]


RED_BLUE = [(255, 0, 0), (0, 0, 255)]


def turned(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° when shown
    stripes().rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    return folder / "turned.png"


def palette(folder):
    image = stripes().quantize(2)
    image.info["transparency"] = bytes([0, 255])
    return image


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: stripes(),
        turned,
        palette,
        lambda folder: stripes().convert("CMYK"),
        lambda folder: stripes().convert("RGBA"),
        lambda folder: np.asarray(stripes()),
        lambda folder: np.asarray(stripes()) / 255,
        lambda folder: np.asarray(stripes()).astype(np.uint16) * 257,
        lambda folder: np.asarray(stripes().convert("RGBA")),
        lambda folder: torch.from_numpy(np.array(stripes())).permute(2, 0, 1),
        lambda folder: torch.from_numpy(np.array(stripes())).permute(2, 0, 1) / 255,
    ],
    ids="rgb turned palette cmyk rgba array floats sixteen array_rgba tensor tensor_floats".split(),
)
def test_images_of_every_kind_are_upright_and_in_rgb(make, tmp_path):
    found = read_image(make(tmp_path))
    assert (found.mode, found.size) == ("RGB", (20, 30))
    assert np.abs(np.array(corners(found)) - RED_BLUE).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
def test_grey_of_eight_and_sixteen_bits_is_as_bright(tmp_path, dtype):
    levels = np.array([[0, 64, 128, 255]] * 4)
    scaled = (levels * (257 if dtype is np.uint16 else 1)).astype(dtype)
    Image.fromarray(scaled).save(tmp_path / "grey.png")
    for given in (tmp_path / "grey.png", Image.open(tmp_path / "grey.png"), scaled):
        found = np.asarray(read_image(given)).astype(int)
        assert np.abs(found - levels[:, :, None]).max() <= 1


def test_paths_and_file_urls_are_read(tmp_path):
    path = tmp_path / "a picture & more.png"
    stripes().save(path)
    for given in (path, str(path), path.as_uri(), path.as_uri().replace("file://", "file://localhost")):
        assert corners(read_image(given)) == RED_BLUE
    with pytest.raises(ImageError, match="a file of another machine"):
        read_image("file://elsewhere/a.png")
    for wrong in (np.full((4, 4, 3), 300.0), np.zeros(3), np.zeros((2, 2, 2, 2, 2)), None):
        with pytest.raises(ImageError, match="no picture: got a"):
            read_image(wrong)


def test_one_image_and_a_batch_of_arrays_are_lists_of_them(tiny):
    model, processor = tiny
    arrays = np.stack([np.asarray(picture(seed)) for seed in (1, 2)])
    whole = scr.describe(model, processor, arrays, "is there a dog ?", doubts=(), **OPTIONS)
    first = scr.describe(model, processor, arrays[0], "is there a dog ?", doubts=(), **OPTIONS)
    assert len(whole) == 2
    assert [one.text for one in first] == [whole[0].text]
    assert scr.describe(model, processor, []) == []


def test_the_command_never_stands_where_the_function_is():
    code = (
        "import scr, importlib, scr.describe as imported\n"
        "from scr.describe import __module__ as home\n"
        "assert imported is scr.describe is importlib.import_module('scr.describe')\n"
        "assert callable(scr.describe) and home == 'scr.describing.describe', home\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert importlib.import_module("scr.describe") is scr.describe
