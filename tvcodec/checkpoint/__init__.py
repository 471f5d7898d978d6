"""Models in and out: one lazy view of every form a checkpoint comes in, and the way back to disk.

    with open_checkpoint("cars/") as checkpoint:
        for name in checkpoint:
            tensor = checkpoint.tensor(name)

The rest of the program sees names, dtype names, shapes and one tensor at a time; which file format
or which shard a tensor came from stays in here.
"""

from tvcodec.checkpoint.adapter import open_fine_tune
from tvcodec.checkpoint.companions import foreign, own_companions
from tvcodec.checkpoint.digests import checksum, content_digest, fingerprint, first_nonfinite
from tvcodec.checkpoint.directory import INDEX_NAME
from tvcodec.checkpoint.dtypes import TORCH_DTYPES, dtype_name
from tvcodec.checkpoint.inputs import refuse_inputs
from tvcodec.checkpoint.layout import Layout, layouts
from tvcodec.checkpoint.opening import Checkpoint, CheckpointSource, open_checkpoint
from tvcodec.checkpoint.pages import blank
from tvcodec.checkpoint.safetensors_file import Plan, file_order, tensor_bytes
from tvcodec.checkpoint.saving import (
    DEFAULT_MAX_SHARD_SIZE,
    Beside,
    plan_bytes,
    save_directory,
    save_safetensors,
)

__all__ = [
    "DEFAULT_MAX_SHARD_SIZE",
    "INDEX_NAME",
    "TORCH_DTYPES",
    "Beside",
    "Checkpoint",
    "CheckpointSource",
    "Layout",
    "Plan",
    "blank",
    "checksum",
    "content_digest",
    "dtype_name",
    "file_order",
    "fingerprint",
    "first_nonfinite",
    "foreign",
    "layouts",
    "open_checkpoint",
    "open_fine_tune",
    "own_companions",
    "plan_bytes",
    "refuse_inputs",
    "save_directory",
    "save_safetensors",
    "tensor_bytes",
]
