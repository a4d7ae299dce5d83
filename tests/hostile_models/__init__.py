"""Models that somebody wishes you ill with: folders made from one tiny captioner that works.

`HOSTILE` names each change and what must come of it. `python -m tests.hostile_models` puts every
folder before the command that reads it, in a process of its own, and prints what came of it:
answered, refused with a sentence, crashed or hung, with memory and time.
"""

from tests.hostile_models.captioners import captioner_cases
from tests.hostile_models.decoders import decoder_cases
from tests.hostile_models.encoders import encoder_cases
from tests.hostile_models.files import file_cases
from tests.hostile_models.made import Hostile
from tests.hostile_models.running import Outcome, put_before, run_all, table

__all__ = ["HOSTILE", "Hostile", "Outcome", "put_before", "run_all", "table"]

HOSTILE: list[Hostile] = [
    *file_cases(),
    *captioner_cases(),
    *decoder_cases(),
    *encoder_cases(),
]
