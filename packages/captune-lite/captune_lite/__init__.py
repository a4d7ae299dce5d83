"""The captioner that `captune caption` uses where no other is named: weights, and where they are.

captioner/model.safetensors, captioner/config.json: what `captune tune` writes, in half precision.
Non-commercial research and education only: see LICENSE.md of the distribution `captune-lite`.
"""

from pathlib import Path

__version__ = "0.1.0"


def captioner_folder() -> Path:
    """The folder that `Captioner.from_pretrained` reads."""
    return Path(__file__).with_name("captioner")
