"""Attempts to run code from the folder of a model or a tokenizer; see `attempts`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from attempts import JINJA, MAPS, World, attempt, code_in


@attempt("auto_map of a new model type", "auto_map of a known model type", "auto_map of another repository",
         "auto_map beside trust_remote_code", "auto_map of a path outside")  # fmt: skip
def _auto_map(world: World, name: str) -> None:
    code_in(world)
    before = {"another": "attacker/repo--", "outside": "../../"}.get(name.split()[-2 if "another" in name else -1], "")
    values: dict[str, Any] = {"auto_map": {auto: f"{before}theirs.{of}" for auto, of in MAPS.items()}}
    if "new" in name:
        values["model_type"] = "theirs"
    if "trust" in name:
        values["trust_remote_code"] = True
    world.edit(world.run / "model" / "config.json", **values)
    world.load()


@attempt("auto_map of a tokenizer", "tokenizer_class with a module", "tokenizer_class of pickled vocabularies",
         "processor_class of their own")  # fmt: skip
def _tokenizer(world: World, name: str) -> None:
    code_in(world)
    values: dict[str, Any] = {
        "auto_map of a tokenizer": {"auto_map": {"AutoTokenizer": ["theirs.Tokenizer", "theirs.Tokenizer"]}},
        "tokenizer_class with a module": {"tokenizer_class": "theirs.Tokenizer"},
        "tokenizer_class of pickled vocabularies": {"tokenizer_class": "TransfoXLTokenizer"},
        "processor_class of their own": {
            "processor_class": "theirs.X",
            "auto_map": {"AutoProcessor": "theirs.X"},
        },
    }[name]
    folder = world.run / "model"
    world.edit(folder / "tokenizer_config.json", **values)
    for file in ("vocab.pkl", "vocab.bin", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"):
        (folder / file).write_bytes(world.pickled)
    if "pickled" in name:
        (folder / "tokenizer.json").unlink()
    world.load()


@attempt("chat_template in tokenizer_config.json", "chat_template.jinja", "additional_chat_templates")
def _templates(world: World, name: str) -> None:
    template, folder = JINJA.format(mark=world.mark), world.run / "model"
    if name.startswith("chat_template in"):
        world.edit(folder / "tokenizer_config.json", chat_template=template)
    else:
        (folder / "additional_chat_templates").mkdir()
        (folder / "chat_template.jinja").write_text(template)
        (folder / "additional_chat_templates" / "default.jinja").write_text(template)
    world.load()
    world.command("report", world.run / "model", "--text", world.arguments[0], "--sequences", 4, "-o", "page")


@attempt("attn_implementation of the hub", "_attn_implementation of the hub", "use_kernels",
         "quantization of their own", "architectures of a module",
         "experts_implementation of the hub", "model_type of a path",
         "model_type of pickled indices", "base_model_tp_plan")  # fmt: skip
def _configuration(world: World, name: str) -> None:
    code_in(world)
    kernel = world.folder / "attacker" / "kernel" / "build" / "torch-universal" / "kernel"
    kernel.mkdir(parents=True)
    (kernel / "__init__.py").write_text(world.code)
    values: dict[str, dict[str, Any]] = {
        "attn_implementation of the hub": {"attn_implementation": "attacker/kernel"},
        "_attn_implementation of the hub": {"_attn_implementation": "attacker/kernel:theirs"},
        "use_kernels": {"use_kernels": True, "kernel_config": {"kernel_mapping": {"RMSNorm": "attacker/kernel:x"}}},
        "quantization of their own": {"quantization_config": {"quant_method": "theirs", "modules": "theirs"}},
        "architectures of a module": {"architectures": ["os.EncoderModel", "theirs.EncoderModel"]},
        "experts_implementation of the hub": {"experts_implementation": "attacker/kernel"},
        "model_type of a path": {"model_type": "../theirs"},
        "model_type of pickled indices": {"model_type": "rag", "index_name": "legacy", "index_path": str(world.folder)},
        "base_model_tp_plan": {"base_model_tp_plan": {"layers.*": "theirs"}, "tp_plan": "auto"},
    }
    world.edit(world.run / "model" / "config.json", **values[name])
    world.load()


@attempt("pytorch_model.bin", "pytorch_model.bin of the old format", "pytorch_model.bin that is a bare pickle",
         "pytorch_model.bin of a later protocol", "model.safetensors that is a pickle", "an index of shards",
         "an index of shards outside", "tf_model.h5", "flax_model.msgpack", "model.pt", "consolidated.pth")  # fmt: skip
def _weights(world: World, name: str) -> None:
    folder = world.run / "model"
    kinds = {"bare": world.pickled, "old": world.legacy(), "later": world.zipped(4)}
    content = next((of for kind, of in kinds.items() if kind in name), world.zipped())
    if name.startswith("an index"):
        where = "../evil.bin" if "outside" in name else "evil.bin"
        (folder / where).write_bytes(content)
        index = {"metadata": {"total_size": 8}, "weight_map": {"a": where, "lm_head.bias": where}}
        for file in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
            (folder / file).write_text(json.dumps(index))
    if "safetensors" in name:
        (folder / "model.safetensors").write_bytes(content)
    else:
        (folder / "model.safetensors").unlink()
        (folder / name.split()[0]).write_bytes(content)
    world.load()


@attempt("an adapter's weights", "an adapter's library", "an adapter's base model")
def _adapter(world: World, name: str) -> None:
    code_in(world)
    folder = world.run / "model"
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["query"], "base_model_name_or_path": str(folder)}
    config["auto_mapping"] = {"base_model_class": "Model", "parent_library": "theirs"} if "library" in name else None
    if "base" in name:
        base = Path(shutil.copytree(folder, world.folder / "base"))
        world.edit(base / "config.json", model_type="theirs", auto_map={a: f"theirs.{b}" for a, b in MAPS.items()})
        config["base_model_name_or_path"] = str(base)
    world.edit(folder / "adapter_config.json", **config)
    (folder / "adapter_model.bin").write_bytes(world.zipped())
    world.load()


@attempt("custom_generate", "modules beside a model", "modular files beside a model")
def _modules(world: World, name: str) -> None:
    folder = world.run / "model"
    files = {
        "custom_generate": ["custom_generate/generate.py", "generation_config.py"],
        "modules beside a model": ["__init__.py", "sitecustomize.py", "conftest.py", "safetensors.py", "setup.py"],
        "modular files beside a model": ["modeling_roberta.py", "configuration_roberta.py", "tokenization_roberta.py"],
    }
    for file in files[name]:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(world.code)
    os.chdir(folder)
    world.load()
