"""The dtypes a checkpoint may hold, under the names that the .tvq format gives them."""

import torch

from tvcodec.errors import CheckpointError

TORCH_DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}

# In the order in which the safetensors library lays tensors out: widest elements first.
SAFETENSORS_DTYPES: dict[str, str] = {
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_FROM_SAFETENSORS = {code: TORCH_DTYPES[name] for name, code in SAFETENSORS_DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The format's name of a torch dtype; KeyError for those that no checkpoint may hold."""
    return _NAMES[dtype]


def accepted_dtype(dtype: torch.dtype, where: str) -> torch.dtype:
    """`dtype` itself, or CheckpointError when the format has no name for it."""
    if dtype not in _NAMES:
        raise _unsupported(str(dtype).removeprefix("torch."), where)
    return dtype


def from_safetensors(code: str, where: str) -> torch.dtype:
    """The torch dtype that a safetensors header means, or CheckpointError."""
    if code not in _FROM_SAFETENSORS:
        raise _unsupported(code, where)
    return _FROM_SAFETENSORS[code]


def _unsupported(found: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: expected one of the dtypes {', '.join(TORCH_DTYPES)}, got {found}",
        "convert the tensor to one of these dtypes and save the checkpoint again",
    )
