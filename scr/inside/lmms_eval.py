"""`lmms-eval --model scr_hf`: its tasks, asked of a model under a method. Read from the code of lmms-eval 0.7.3.

The entry point of its group `lmms_eval.models` is `manifest`. `ScrHF` is made when it is asked for: it derives from
lmms-eval's own class, and this module is imported without that package, too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from .answering import AnsweringModel


def manifest() -> Any:
    """What lmms-eval registers: the name `scr_hf`, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="scr_hf", chat_class_path=f"{__name__}.ScrHF")


def __getattr__(name: str) -> Any:
    if name == "ScrHF":
        return _scr_hf()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _scr_hf() -> type:
    from accelerate import Accelerator
    from lmms_eval.api.model import lmms
    from lmms_eval.protocol import ChatMessages

    class ScrHF(lmms):
        """A transformers model under a method of scr.patch; see `AnsweringModel` for what --model_args may hold."""

        is_simple = False

        def __init__(self, pretrained: str, max_batch_size: Any = None, **options: Any) -> None:
            """See `AnsweringModel`; `max_batch_size`, which lmms-eval hands to all models, has no meaning here."""
            super().__init__()
            # One process per device shares the questions out and gathers the answers by these three names.
            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            if self._world_size > 1:
                options["device"] = str(self.accelerator.device)
            self.answering = AnsweringModel(pretrained, **options)
            self.device, self.batch_size = self.answering.device, self.answering.batch_size

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """The answers, in the order of the requests."""

            def messages(request: Any) -> Any:
                _, messages_of, _, number, task, split = request.args
                return ChatMessages(messages=messages_of(self.task_dict[task][split][number])).to_hf_messages()

            # Its thousands of pictures would not fit into memory: each is opened when it is asked about.
            asked = [(functools.partial(messages, request), request.args[2]) for request in requests]
            said = self.answering.answers(asked)
            for request, text in zip(requests, said, strict=True):
                self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), text)
            return said

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            """Refused: methods act on what is generated."""
            raise _refused("loglikelihood")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            """Refused: there is one round."""
            raise _refused("generate_until_multi_round")

    # Where lmms-eval looks for it, and what its logs say.
    ScrHF.__module__, ScrHF.__qualname__ = __name__, "ScrHF"
    return ScrHF


def _refused(kind: str) -> ConfigError:
    return ConfigError(
        f"a task of another kind: got {kind}; expected generate_until. scr_hf answers in words: choose such a task."
    )
