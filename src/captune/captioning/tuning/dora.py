"""DoRA (Liu et al. 2024): LoRA on the direction of each weight, a trained magnitude beside it.

Trained parameters: as LoRA, plus one an output of each projection. By Hugging Face peft.
"""

from __future__ import annotations

from captune.captioning.tuning.lora import LoRA


class DoRA(LoRA):
    """LoRA with peft's `use_dora`."""

    use_dora = True


METHOD = DoRA
