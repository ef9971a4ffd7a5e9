"""Calls as type checkers see them: they take the first ones and refuse the others, whose ignore would be unused."""

from typing import Any

from transformers import PreTrainedModel

import scr


def taken(model: PreTrainedModel, name: str, fields: dict[str, Any]) -> None:
    """What type checkers take."""
    scr.patch(model, scale=1.2)
    scr.patch(model, "uniform_smooth", layers=[0, 4], seed=1)
    scr.patch(model, "vcd", strength="quantile", noise_step=500)
    scr.patch(model, "scr+purified", **{"scr.scale": 1.2})
    scr.patch(model, name, **fields)
    scr.patch(model, scr.SCRConfig(scale=1.2))
    method: scr.MethodName = "dola"
    scr.patch(model, method)


def refused(model: PreTrainedModel) -> None:
    """What they refuse: an ignore that is not needed is an error itself."""
    scr.patch(model, lambda_=1.2)  # type: ignore[call-overload]
    scr.patch(model, "vcd", scale=1.2)  # type: ignore[call-overload]
    scr.patch(model, "purified", image_keep="much")  # type: ignore[call-overload]
    scr.patch(model, "dola", layers="middle")  # type: ignore[call-overload]
    scr.patch(model, "yes_shift", shift="a", no_tokens=[7])  # type: ignore[call-overload]
    method: scr.MethodName = "vdc"  # type: ignore[assignment]  # noqa: F841
