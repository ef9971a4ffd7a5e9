"""The table of methods: name → class and the fields that a preset fixes. A new method is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._hooks import suggestion
from ..errors import ConfigError
from .avisc import AvisC, AvisCConfig
from .base import Lever, Method, MethodConfig
from .crops import CRoPS, CRoPSConfig
from .deco import DeCo, DeCoConfig
from .dola import DoLa, DoLaConfig
from .head_guidance import HeadGuidance, HeadGuidanceConfig
from .icd import ICD, ICDConfig
from .m3id import M3ID, M3IDConfig
from .oa_vcd import OAVCD, OAVCDConfig
from .only import ONLY, ONLYConfig
from .opera import OPERA, OPERAConfig
from .pai import PAI, PAIConfig
from .plausibility_only import PlausibilityOnly, PlausibilityOnlyConfig
from .purified import Purified, PurifiedConfig, PurifiedLogitsProcessor
from .rudder import Rudder, RudderConfig
from .scr import SCR, SCRConfig
from .scr_one_pass import OnePassConfig, OnePassSCR
from .sid import SID, SIDConfig
from .spin import SPIN, SPINConfig
from .trace import Trace
from .vaf import VAF, VAFConfig
from .vcd import VCD, VCDConfig
from .vista import Vista, VistaConfig
from .vli import VLI, VLIConfig
from .vti import VTI, VTIConfig
from .yes_shift import YesShift, YesShiftConfig


@dataclass(frozen=True)
class MethodEntry:
    """One row of the table.

    Attributes:
        name: what `scr.patch` and `--method` call it.
        method: the class.
        summary: one sentence for listings.
        preset: configuration fields that make a control out of a method.
    """

    name: str
    method: type[Method]
    summary: str
    preset: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def paper(self) -> str:
        """Where the method comes from."""
        return self.method.paper

    @property
    def requires(self) -> tuple[Lever, ...]:
        """Which levers it pulls."""
        return self.method.requires

    @property
    def least_beams(self) -> int:
        """How many beams `generate` needs at least: see `Method.least_beams`."""
        return self.method.least_beams

    @property
    def example(self) -> dict[str, Any]:
        """Fields by which it shows on any model: see `MethodConfig.example`."""
        return dict(self.config_class.example)

    @property
    def config_class(self) -> type[MethodConfig]:
        """Its configuration."""
        return self.method.config_class

    def settings_of(self, beside: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint's `scr.json`, whose content this is, sets of it: nothing of a method that takes none."""
        return dict(beside.get("settings", {})) if self.config_class.takes_settings else {}

    def configure(self, fields: Mapping[str, Any]) -> MethodConfig:
        """The configuration with `fields` set, defaults and the preset filled in.

        Raises:
            ConfigError: for an unknown field, a value out of range, or one that contradicts the preset.
        """
        for name, value in self.preset.items():
            if fields.get(name, value) != value:
                raise ConfigError(
                    f"{self.name} with another {name}: got {fields[name]!r}; expected {value!r}, which makes it "
                    f"{self.name}. Use method {self.method.name!r} to set {name} freely."
                )
        return self.config_class.from_dict({**self.preset, **fields})


METHODS: dict[str, MethodEntry] = {
    entry.name: entry
    for entry in (
        MethodEntry("scr", SCR, "spatial credit redistribution from attended patches to their neighbours"),
        MethodEntry("scr_one_pass", OnePassSCR, "SCR with a map that a small network predicts: no diagnostic pass"),
        MethodEntry("uniform_smooth", SCR, "control: SCR with sources drawn at random", {"source": "random"}),
        MethodEntry("noise_control", SCR, "control: SCR's edits replaced by noise of the same norm", {"edit": "noise"}),
        MethodEntry("purified", Purified, "contrast with a noised image, as SEED purifies"),
        MethodEntry("vcd", VCD, "contrast with a diffused image, among plausible tokens"),
        MethodEntry("oa_vcd", OAVCD, "contrast with the image whose salient parts are covered, in OA-VCD's style"),
        MethodEntry("icd", ICD, "contrast with the image behind an instruction that confuses"),
        MethodEntry("m3id", M3ID, "contrast with the prompt without its image, more with every token"),
        MethodEntry("sid", SID, "contrast with what sees only the least attended of the image"),
        MethodEntry("avisc", AvisC, "contrast with what sees only the blind tokens of the image"),
        MethodEntry("crops", CRoPS, "contrast with a run without the image and one that sees little of it"),
        MethodEntry("pai", PAI, "image tokens get more attention; contrast with a run without the image"),
        MethodEntry("vaf", VAF, "image tokens get more attention, the system prompt less"),
        MethodEntry("head_guidance", HeadGuidance, "every head looks where all heads look in the image"),
        MethodEntry("spin", SPIN, "heads that look least at the image are turned down"),
        MethodEntry("only", ONLY, "second logits from the text heads of the first block alone"),
        MethodEntry("dola", DoLa, "contrast with an earlier layer"),
        MethodEntry("deco", DeCo, "add the earlier layer that is surest of a likely token"),
        MethodEntry("rudder", Rudder, "steer by what attention adds to the prompt, gated per token"),
        MethodEntry("vista", Vista, "steer MLPs by what the image has changed, and mix earlier layers in"),
        MethodEntry("vti", VTI, "steer MLPs, of the vision tower too, by vectors from demonstrations"),
        MethodEntry("vli", VLI, "steer from the image's context towards its salient parts, in VLI's style"),
        MethodEntry("opera", OPERA, "beam search that penalises over-trust in its own words, and goes back"),
        MethodEntry("plausibility_only", PlausibilityOnly, "control: VCD's constraint without its contrast"),
        MethodEntry("yes_shift", YesShift, "control: a constant on the logits of no"),
    )
}


def get_method(name: str) -> MethodEntry:
    """The table's row for `name`, of which case does not matter.

    Raises:
        ConfigError: for an unknown name, with the nearest known one.
    """
    entry = METHODS.get(str(name).lower())
    if entry is None:
        raise ConfigError(
            f"unknown method: got {name!r}; expected one of {list(METHODS)}. {suggestion(str(name).lower(), METHODS)}"
        )
    return entry


__all__ = [
    "ICD",
    "M3ID",
    "METHODS",
    "OAVCD",
    "ONLY",
    "OPERA",
    "PAI",
    "SCR",
    "SID",
    "SPIN",
    "VAF",
    "VCD",
    "VLI",
    "VTI",
    "AvisC",
    "AvisCConfig",
    "CRoPS",
    "CRoPSConfig",
    "DeCo",
    "DeCoConfig",
    "DoLa",
    "DoLaConfig",
    "HeadGuidance",
    "HeadGuidanceConfig",
    "ICDConfig",
    "M3IDConfig",
    "Method",
    "MethodConfig",
    "MethodEntry",
    "OAVCDConfig",
    "ONLYConfig",
    "OPERAConfig",
    "OnePassConfig",
    "OnePassSCR",
    "PAIConfig",
    "PlausibilityOnly",
    "PlausibilityOnlyConfig",
    "Purified",
    "PurifiedConfig",
    "PurifiedLogitsProcessor",
    "Rudder",
    "RudderConfig",
    "SCRConfig",
    "SIDConfig",
    "SPINConfig",
    "Trace",
    "VAFConfig",
    "VCDConfig",
    "VLIConfig",
    "VTIConfig",
    "Vista",
    "VistaConfig",
    "YesShift",
    "YesShiftConfig",
    "get_method",
]
