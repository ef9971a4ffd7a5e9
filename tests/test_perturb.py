"""How images are corrupted: the formulas, the determinism of the noise, and the objects that say which it is."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

import scr
from scr import ConfigError
from scr.perturb import (
    PERTURBATIONS,
    DiffusionNoise,
    FeatureNoise,
    GaussianBlur,
    GaussianNoise,
    PatchMask,
    diffusion_schedule,
    get_perturbation,
    image_digest,
    noise_generator,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def apply(perturbation, image, digest="an image"):
    return perturbation.apply(image, noise_generator(perturbation.seed, digest))


def large(dtype=torch.float32):
    return (2 * torch.randn(4, 3, 256, 256, generator=torch.Generator().manual_seed(0)) + 1).to(dtype)


def test_the_diffusion_schedule_is_that_of_vcd():
    kept = diffusion_schedule()
    assert len(kept) == 1000
    assert all(earlier > later for earlier, later in itertools.pairwise(kept))
    for step, share in {500: 0.863, 700: 0.593, 900: 0.365, 999: 0.285}.items():
        assert math.sqrt(kept[step]) == pytest.approx(share, abs=6e-4)
    assert 1 - kept[0] == pytest.approx(0.00499 / (1 + math.exp(6)) + 1e-5)


@pytest.mark.parametrize(
    ("perturbation", "keep"),
    [
        (GaussianNoise(), 0.3),
        (GaussianNoise(image_keep=0.9), 0.9),
        (GaussianNoise(image_keep=0), 0.0),
        (DiffusionNoise(), diffusion_schedule()[500]),
        (DiffusionNoise(noise_step=999), diffusion_schedule()[999]),
        (DiffusionNoise(noise_step=0), diffusion_schedule()[0]),
    ],
)
def test_mean_and_variance_of_the_noise(perturbation, keep):
    image = large()
    noisy = apply(perturbation, image)
    noise = noisy - math.sqrt(keep) * image
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.var().item() == pytest.approx(1 - keep, rel=0.01)
    assert torch.corrcoef(torch.stack([noise.flatten(), image.flatten()]))[0, 1].abs() < 0.01
    assert noisy.mean().item() == pytest.approx(math.sqrt(keep) * image.mean().item(), abs=0.005)
    assert noisy.var().item() == pytest.approx(keep * image.var().item() + 1 - keep, rel=0.01)
    channels = noise.transpose(0, 1).flatten(1)
    assert (torch.corrcoef(channels) - torch.eye(3)).abs().max() < 0.01, "channels have noise of their own"


def test_the_noise_of_features_has_their_own_scale():
    features = 7 * torch.randn(576, 512, generator=torch.Generator().manual_seed(0)) + 1
    noise = apply(FeatureNoise(image_keep=0.3), features) - math.sqrt(0.3) * features
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.square().mean().item() == pytest.approx(0.7 * features.square().mean().item(), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_other_dtypes_are_rounded_once(name, dtype):
    image = large(dtype)
    noisy = apply(get_perturbation(name), image)
    assert noisy.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(noisy, apply(get_perturbation(name), image.float()).to(dtype))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_mask_hides_whole_squares(share):
    image = torch.ones(3, 3, 56, 60)  # 4 × 5 squares, of which the last column is cut
    seen = apply(PatchMask(share=share), image) != 0
    assert torch.equal(seen, seen[:, :1].expand_as(seen)), "of all channels"
    squares = torch.nn.functional.pad(seen[:, 0].float(), (0, 10)).unfold(1, 14, 14).unfold(2, 14, 14)
    filled = squares.flatten(3).mean(-1)
    assert set(filled[:, :, :4].unique().tolist()) <= {0.0, 1.0}
    assert ((filled == 0).flatten(1).sum(1) == round(20 * share)).all()
    if 0 < share < 1:
        assert not torch.equal(seen[0], seen[1]), "every tile has its own"


def test_the_blur_is_a_gaussian():
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    blurred = apply(GaussianBlur(sigma=3), point)[0, 0]
    distance = (torch.arange(65) - 32.0) ** 2
    expected = torch.exp(-(distance[:, None] + distance) / 18)
    assert torch.allclose(blurred, expected / expected.sum(), atol=1e-7)
    even = torch.full((1, 3, 20, 31), 1.7)
    assert torch.allclose(apply(GaussianBlur(sigma=50), even), even, atol=1e-5), "the edges are no darker"
    image = large()
    assert torch.equal(apply(GaussianBlur(sigma=0.05), image), image), "σ → 0 changes nothing"
    spread = [apply(GaussianBlur(sigma=sigma), image).var().item() for sigma in (0.3, 1, 3, 10)]
    assert spread == sorted(spread, reverse=True)
    row = torch.randn(1, 3, 1, 12)
    assert apply(GaussianBlur(sigma=4), row).shape == row.shape


def test_digests_are_of_exact_pixels_and_shape():
    image = large()
    assert image_digest(image) == image_digest(image.clone()) == image_digest(image.transpose(2, 3).contiguous().mT)
    assert image_digest(image) != image_digest(image.flatten(0, 1)[None])
    assert image_digest(image) != image_digest(image + 1e-6)
    assert image_digest(image.bfloat16()) == image_digest(image.bfloat16().float()) != image_digest(image)
    with torch.device("meta"):
        assert noise_generator(0, "a").device.type == "cpu", "a default device changes nothing"
        assert torch.equal(apply(GaussianNoise(), image), apply(GaussianNoise(), image))


# --- objects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_go_through_json(name):
    perturbation = get_perturbation(name, seed=3)
    values = json.loads(json.dumps(perturbation.to_dict()))
    assert (values["name"], values["seed"]) == (name, 3)
    assert get_perturbation(**values) == perturbation == type(perturbation).from_dict(values)
    assert perturbation != get_perturbation(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        perturbation.seed = 1


def test_defaults_are_the_sources():
    assert GaussianNoise().to_dict() == {"name": "gaussian", "seed": 0, "image_keep": 0.3}
    assert DiffusionNoise().noise_step == 500
    assert scr.perturb.PERTURBATIONS is PERTURBATIONS


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gausian", {}, "unknown perturbation: got 'gausian'.*Did you mean 'gaussian'"),
        (None, {}, "unknown perturbation: got None"),
        ("gaussian", {"image_kept": 1}, "unknown field of 'gaussian': got 'image_kept'.*Did you mean 'image_keep'"),
        ("gaussian", {"image_keep": 1.1}, r"image_keep out of range: got 1\.1; .*≤ 1"),
        ("features", {"image_keep": -0.1}, "image_keep out of range"),
        ("gaussian", {"image_keep": math.nan}, "image_keep out of range: got nan"),
        ("gaussian", {"seed": -1}, "seed out of range: got -1; expected an integer ≥ 0"),
        ("diffusion", {"noise_step": 1000}, "noise_step out of range: got 1000; expected an integer ≥ 0 and ≤ 999"),
        ("diffusion", {"noise_step": 500.0}, r"noise_step out of range: got 500\.0"),
        ("mask", {"share": 2}, "share out of range"),
        ("mask", {"patch": 0}, "patch out of range: got 0; expected an integer ≥ 1"),
        ("blur", {"sigma": -1}, "sigma out of range"),
        ("blank", {"sigma": 1}, "unknown field of 'blank'"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        get_perturbation(name, **settings)
