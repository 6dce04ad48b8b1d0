"""The demo's model with weights of 8 bits. Needs the extra `bench`.

With the demo's 4 bits (`Q4_1`) llama.cpp has little to gain from many requests at once on two cores: behind prompts of
64 tokens it writes 118 tokens a second at 2 and 215 at 12, with 8 bits (`Q8_0`) 97 and 252, and reads prompts half as
fast again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from standby.engines.model_file import find_model

KIND = "Q8_0"
FILE_TYPE = 7
"""What `general.file_type` says of it."""


def eight_bits(folder: Path) -> Path:
    """Write the demo's model anew into a folder, 145 MB; what it has in 8 bits already stays as it is."""
    import gguf  # noqa: PLC0415 - only there for `make bench`
    from gguf.quants import dequantize, quantize  # noqa: PLC0415

    source = find_model("")
    target = folder / source.name.replace("Q4_1", KIND)
    reader, wanted = gguf.GGUFReader(source), gguf.GGMLQuantizationType[KIND]
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    _copy_header(gguf, reader, writer)
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1:
            values = dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, quantize(values, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _copy_header(gguf: Any, reader: Any, writer: Any) -> None:
    array = gguf.GGUFValueType.ARRAY
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer has them
        value = FILE_TYPE if name == "general.file_type" else field.contents()
        inner = field.types[-1] if field.types[0] == array else None
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
