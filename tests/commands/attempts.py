"""Attempts to run code from data: each plants a file or a setting, and uses it as commands do.

An attempt is a function of a `World`. Code that runs makes `world.mark`. Errors of the project are expected.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import AutoModelForMaskedLM

from attention_guidance.commands.finetuning.prediction.predictor import Predictor
from attention_guidance.commands.pretraining.loop.trainer import StepTimer
from attention_guidance.commands.pretraining.preparation.text import _packed
from attention_guidance.commands.pretraining.saving.checkpoints import SEAL, _seal
from attention_guidance.commands.pretraining.settings.architectures import longest_stated, stated_sizes, trained
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.studies.models import subjects
from attention_guidance.errors import GuidanceError

ATTEMPTS: dict[str, Callable[[World], None]] = {}


class Evil:
    """Pickled, it runs code when it is loaded."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


@dataclass(frozen=True)
class World:
    """What an attempt works with.

    Attributes:
        folder: an empty folder, which is also the current one.
        mark: the file that code would make.
        run: a copy of a finished run.
        arguments: those of a small run, without command and output.
        cli: runs the command line.
    """

    folder: Path
    mark: Path
    run: Path
    arguments: list[str]
    cli: Callable[..., int]

    @property
    def code(self) -> str:
        return f"open({str(self.mark)!r}, 'w').close()"

    @property
    def evil(self) -> Evil:
        return Evil(self.code)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self.evil)

    def zipped(self, protocol: int = 2) -> bytes:
        """A file of torch.save with the pickle."""
        buffer = io.BytesIO()
        torch.save({"a": self.evil, "step": 1}, buffer, pickle_protocol=protocol)
        return buffer.getvalue()

    def legacy(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"a": self.evil}, buffer, _use_new_zipfile_serialization=False)
        return buffer.getvalue()

    def objects(self) -> bytes:
        """A .npy file of an array of objects."""
        buffer = io.BytesIO()
        np.save(buffer, np.array([self.evil], object), allow_pickle=True)
        return buffer.getvalue()

    def edit(self, file: Path, **values: Any) -> None:
        """Set values of a JSON file."""
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | values))

    def load(self) -> None:
        """Load the model and its tokenizer in every way that commands do."""
        model = str(self.run / "model")
        for load in (
            lambda: subjects(model)[0].load(),
            lambda: subjects(model)[0].tokenizer(),
            lambda: trained(model, lambda name: AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=False)),
            lambda: stated_sizes(None, model),
            lambda: longest_stated(None, model),
            lambda: stated_sizes(f"{model}/config.json", None),
            lambda: longest_stated(f"{model}/config.json", None),
            lambda: Predictor.load(model),
        ):
            with suppress(GuidanceError):
                load()

    def resume(self) -> None:
        """Make the run unfinished, seal its newest checkpoint as its sender would, and resume it."""
        for path in (self.run / "results.json", self.run / "model"):
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        for folder in (self.checkpoint, self.run / "tokenizer"):
            (folder / SEAL).unlink()
            _seal(folder)
        self.command("pretrain", "-o", self.run, "--resume")

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint, before the last step."""
        return max((self.run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    def command(self, *words: object) -> None:
        """Run a command, which may fail, but only by an error of the project."""
        assert self.cli(*words, "-q") in (0, 1, 2)

    def settings(self, **values: Any) -> None:
        """Train with a received run.yaml."""
        content = yaml.safe_load((self.run / "run.yaml").read_text()) | {"max_steps": 1, "save_every": None} | values
        (self.folder / "run.yaml").write_text(yaml.safe_dump(content))
        self.command("pretrain", "--config", self.folder / "run.yaml", "-o", self.folder / "out")

    def argument(self, **values: Any) -> None:
        self.settings(arguments=values)


def attempt(*names: str) -> Callable[[Callable[..., None]], None]:
    """Register a function as an attempt, or, with several names, as one for each, called with the name."""

    def register(function: Callable[..., None]) -> None:
        for name in names:
            ATTEMPTS[name] = (lambda world, name=name: function(world, name)) if len(names) > 1 else function

    return register


# Models and tokenizers

_THEIRS = """
{code}
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast
class Config(BertConfig):
    model_type = "theirs"
class Model(BertForMaskedLM):
    config_class = Config
class Tokenizer(BertTokenizerFast):
    pass
"""
_MAPS = {
    "AutoConfig": "Config",
    "AutoModel": "Model",
    "AutoModelForMaskedLM": "Model",
    "AutoModelForTokenClassification": "Model",
}


def _code_in(world: World) -> None:
    (world.run / "model" / "theirs.py").write_text(_THEIRS.format(code=world.code))
    # Where the transformers library, or Python, might look.
    shutil.copy(world.run / "model" / "theirs.py", world.folder)


@attempt("auto_map of a new model type", "auto_map of a known model type", "auto_map of another repository",
         "auto_map beside trust_remote_code", "auto_map of a path outside")  # fmt: skip
def _auto_map(world: World, name: str) -> None:
    _code_in(world)
    before = {"another": "attacker/repo--", "outside": "../../"}.get(name.split()[-2 if "another" in name else -1], "")
    values: dict[str, Any] = {"auto_map": {auto: f"{before}theirs.{of}" for auto, of in _MAPS.items()}}
    if "new" in name:
        values["model_type"] = "theirs"
    if "trust" in name:
        values["trust_remote_code"] = True
    world.edit(world.run / "model" / "config.json", **values)
    world.load()


@attempt("auto_map of a tokenizer", "tokenizer_class with a module", "tokenizer_class of pickled vocabularies",
         "processor_class of their own")  # fmt: skip
def _tokenizer(world: World, name: str) -> None:
    _code_in(world)
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


_JINJA = "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"


@attempt("chat_template in tokenizer_config.json", "chat_template.jinja", "additional_chat_templates")
def _templates(world: World, name: str) -> None:
    template, folder = _JINJA.format(mark=world.mark), world.run / "model"
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
    _code_in(world)
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
    _code_in(world)
    folder = world.run / "model"
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["query"], "base_model_name_or_path": str(folder)}
    config["auto_mapping"] = {"base_model_class": "Model", "parent_library": "theirs"} if "library" in name else None
    if "base" in name:
        base = Path(shutil.copytree(folder, world.folder / "base"))
        world.edit(base / "config.json", model_type="theirs", auto_map={a: f"theirs.{b}" for a, b in _MAPS.items()})
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


# Checkpoints and other files that a resume reads


@attempt("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt",
         "pytorch_model.bin of a checkpoint", "optimizer.bin", "rng_state_0.pth",
         "pytorch_model_fsdp.bin", "adapter_model.bin of a checkpoint")  # fmt: skip
def _checkpoint(world: World, name: str) -> None:
    folder = world.checkpoint
    (folder / name.split()[0]).write_bytes(world.zipped())
    if name.startswith("pytorch_model.bin"):
        (folder / "model.safetensors").unlink()
    if name.startswith("adapter"):
        world.edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(folder))
    world.resume()


@attempt("step_seconds.npy of objects", "step_seconds.npy that is a pickle")
def _times(world: World, name: str) -> None:
    (world.checkpoint / "step_seconds.npy").write_bytes(world.objects() if "objects" in name else world.pickled)
    with suppress(GuidanceError):
        StepTimer().load(world.checkpoint)
    world.resume()


@attempt("callbacks in trainer_state.json")
def _callbacks(world: World) -> None:
    _code_in(world)
    state = {"theirs.Callback": {"args": {"x": 1}, "attributes": {}}, "os.system": [{"args": {"command": "x"}}]}
    file = world.checkpoint / "trainer_state.json"
    world.edit(file, stateful_callbacks=json.loads(file.read_text())["stateful_callbacks"] | state)
    world.resume()


@attempt("auto_map of a checkpoint", "auto_map of a run's tokenizer")
def _resumed_maps(world: World, name: str) -> None:
    code = _THEIRS.format(code=world.code)
    for folder in (world.checkpoint, world.run / "tokenizer"):
        (folder / "theirs.py").write_text(code)
        values: dict[str, Any] = {"auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]}}
        world.edit(folder / "tokenizer_config.json", **values)
    if "checkpoint" in name:
        maps = {auto: f"theirs.{of}" for auto, of in _MAPS.items()}
        world.edit(world.checkpoint / "config.json", model_type="theirs", auto_map=maps)
    world.resume()


@attempt("packed blocks of objects", "packed blocks with pickled lengths")
def _blocks(world: World, name: str) -> None:
    kind = "O" if "of objects" in name else "uint16"
    (world.folder / "blocks.json").write_text(json.dumps({"dtype": kind, "truncated": 0}))
    (world.folder / "ids").write_bytes(world.pickled.ljust(160, b"\0"))
    (world.folder / "lengths.npy").write_bytes(world.objects())
    assert _packed(world.folder, 4, lambda note: None) is None


@attempt("baseline.safetensors that is a pickle", "crf.pkl beside a fine-tuned model", "baseline.json with classes")
def _baseline(world: World, name: str) -> None:
    folder = world.run / "model"
    task = {"task": "ner", "labels": ["O", "B-X"], "scheme": "BIO", "encoder_weight": 0.5}
    world.edit(folder / "task.json", **task)
    world.edit(folder / "baseline.json", names=[["bias"]], py_class="theirs.Crf")
    for file in ("baseline.safetensors", "crf.pkl", "crf.crfsuite", "model.joblib", "baseline.pkl"):
        (folder / file).write_bytes(world.pickled)
    world.load()


# Settings


@attempt("python tags in run.yaml", "python names in run.yaml", "python modules in run.yaml", "python tags of --set")
def _tags(world: World, name: str) -> None:
    call = f"!!python/object/apply:builtins.exec [{world.code!r}]"
    value = {"names": "!!python/name:theirs.x ''", "modules": "!!python/module:theirs ''"}.get(name.split()[1], call)
    _code_in(world)
    if "--set" in name:
        world.command("pretrain", *world.arguments, "--set", f"optim={value}", "-o", "out")
        return
    (world.folder / "run.yaml").write_text(f"seed: {value}\n")
    world.command("pretrain", "--config", "run.yaml", "-o", "out")
    with suppress(GuidanceError):
        make_config({}, world.folder / "run.yaml")


@attempt(
    "objective in run.yaml", "objective of a relative path", "objective of a path outside", "objective of a module"
)
def _objective(world: World, name: str) -> None:
    (world.folder / "theirs.py").write_text(f"{world.code}\ndef own(*given): pass\n")
    file = {"relative path": "./theirs.py", "path outside": f"../{world.folder.name}/theirs.py", "a module": "theirs"}
    world.settings(objective=f"{file.get(' '.join(name.split()[-2:]), world.folder / 'theirs.py')}:own")


@attempt("report_to of a service", "report_to of everything", "report_to of a module", "trackio_space_id", "run_name")
def _reports(world: World, name: str) -> None:
    for module in ("wandb", "mlflow", "comet_ml", "trackio", "theirs", "codecarbon", "swanlab"):
        (world.folder / f"{module}.py").write_text(world.code)
    world.settings(
        report_to={"service": "wandb", "everything": "all", "module": "theirs"}.get(name.split()[-1], "none"),
        arguments={name: f"attacker/{world.code}"} if " " not in name else {},
    )


@attempt("deepspeed", "deepspeed in run.yaml itself", "fsdp", "fsdp_config", "accelerator_config", "parallelism_config")
def _other_settings(world: World, name: str) -> None:
    for module in ("deepspeed", "theirs"):
        (world.folder / f"{module}.py").write_text(world.code)
    (world.folder / "other.json").write_text(
        json.dumps({"transformer_layer_cls_to_wrap": "theirs.X", "module": "theirs"})
    )
    value: Any = {"zero_optimization": {"stage": 3}} if "itself" in name else str(world.folder / "other.json")
    world.argument(**{name.split()[0]: "full_shard" if name == "fsdp" else value})


@attempt("push_to_hub", "hub_token", "hub_model_id", "use_liger_kernel", "liger_kernel_config", "optim_args",
         "optim of a module", "optim that imports lomo", "optim that imports galore", "optim that imports bitsandbytes",
         "optim_target_modules", "torch_compile_backend", "lr_scheduler_kwargs", "lr_scheduler_type",
         "dataloader_multiprocessing_context", "include_for_metrics", "debug", "ddp_backend", "label_names",
         "output_dir", "resume_from_checkpoint", "logging_dir", "callbacks", "data_collator")  # fmt: skip
def _argument(world: World, name: str) -> None:
    for module in ("theirs", "lomo_optim", "galore_torch", "bitsandbytes", "liger_kernel", "torchao"):
        (world.folder / f"{module}.py").write_text(world.code)
    values: dict[str, Any] = {
        "push_to_hub": True,
        "use_liger_kernel": True,
        "liger_kernel_config": {"theirs": True},
        "optim_args": f"x=__import__('theirs'),lr={world.code}",
        "lr_scheduler_kwargs": {"lr_lambda": f"lambda step: {world.code}"},
    }
    optimizers = {"lomo": "lomo", "galore": "galore_adamw", "bitsandbytes": "adamw_bnb_8bit", "module": "theirs.Adam"}
    if name.startswith("optim "):
        name, value = "optim", optimizers[name.split()[-1]]
    else:
        value = values.get(name, "theirs:x")
    world.argument(**{name: value})


@attempt("a tokenizer named in run.yaml", "a model named in run.yaml", "a configuration named in run.yaml")
def _named(world: World, name: str) -> None:
    _code_in(world)
    folder = world.run / "model"
    world.edit(folder / "config.json", model_type="theirs", auto_map={a: f"theirs.{b}" for a, b in _MAPS.items()})
    values = {"auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]}, "tokenizer_class": "Theirs"}
    world.edit(folder / "tokenizer_config.json", **values)
    field = {"tokenizer": "tokenizer", "model": "init_from", "configuration": "arch_config"}[name.split()[1]]
    given = str(folder / "config.json" if field == "arch_config" else folder)
    world.settings(**{field: given, "vocab_size": None})


@attempt("--heads", "--schedule", "--max-time", "--token-class", "--loss", "--backend", "--preset")
def _language(world: World, name: str) -> None:
    value = f"{'x=' if name == '--token-class' else ''}__import__('os').system('touch {world.mark}')"
    world.command("pretrain", *world.arguments, "--max-steps", 1, name, value, "-o", "out")


# Data


@attempt("a corpus named like a command", "a corpus named like a pipe", "a corpus named like a URL")
def _corpus(world: World, name: str) -> None:
    word = name.split()[-1]
    text = {"command": f"$(touch {world.mark})", "pipe": f"touch {world.mark} |", "URL": f"file://{world.run}/x"}[word]
    world.command("pretrain", text, "-o", "out")
    world.command("pretrain", f"|touch {world.mark}", "-o", "out")


@attempt("a data set's script", "a data set of pickles", "a data set of archived pickles", "a data set's packages")
def _dataset(world: World, name: str) -> None:
    data = world.folder / "data"
    data.mkdir()
    if "script" in name or "packages" in name:
        for file in ("data.py", "dataset.py", "__init__.py", "setup.py"):
            (data / file).write_text(world.code)
        if "packages" in name:
            (data / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data.py\n---\n")
    elif "archived" in name:
        with tarfile.open(data / "train.tar", "w") as archive:
            for suffix, content in {"pkl": world.pickled, "npy": world.objects(), "pth": world.zipped()}.items():
                member = tarfile.TarInfo(f"0.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    else:
        for suffix in ("pkl", "pickle", "pt", "pandas"):
            (data / f"train.{suffix}").write_bytes(world.pickled)
    size = [word for word in world.arguments[1:] if word != world.arguments[0]]
    world.command("pretrain", "--dataset", data, *size, "--max-steps", 1, "-o", "out")
    world.command("pretrain", data, *size, "--max-steps", 1, "-o", "out")


@attempt("extension types of Parquet", "pickled metadata of Parquet", "label names of Parquet")
def _parquet(world: World, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.field("text", pa.string())
    if "extension" in name:
        extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": world.pickled}
        column = column.with_metadata(extension)
    label = pa.field("label", pa.int64())
    schema = pa.schema([column, label])
    if "pickled" in name:
        schema = schema.with_metadata({b"pandas": world.pickled, b"ARROW:schema": world.pickled})
    if "label" in name:
        names = ["{{ cycler }}", f"__import__('os').system('touch {world.mark}')"]
        stated = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        schema = schema.with_metadata({b"huggingface": json.dumps(stated).encode()})
    table = pa.Table.from_arrays([pa.array(["a b c"] * 40), pa.array([0, 1] * 20)], schema=schema)
    pq.write_table(table, world.folder / "train.parquet")
    world.command("tokenizer", "train", "train.parquet", "--vocab-size", 270, "-o", "out")
    with suppress(GuidanceError):
        _examples(world, "classify", "train.parquet")


def _examples(world: World, task: str, file: str) -> None:
    from attention_guidance.commands.finetuning.examples.reading import read_examples
    from attention_guidance.commands.finetuning.examples.tasks import get_task

    read_examples(get_task(task), {"train": world.folder / file})


@attempt("labels that are Python", "labels that are NumPy", "a table of formulas")
def _labels(world: World, name: str) -> None:
    call = f"__import__('os').system('touch {world.mark}')"
    label = f"array([{call}], dtype=object)" if "NumPy" in name else f"[{call}]"
    rows = "".join(f'text {n},"{label if n % 2 else "=cmd|x"}"\n' for n in range(40))
    (world.folder / "train.csv").write_text(f"text,labels\n{rows}")
    for task in ("multilabel", "classify"):
        with suppress(GuidanceError):
            _examples(world, task, "train.csv")


@attempt("a gzip file's name", "a zip file's names", "a tar file's names", "a pickle as text", "an array as text")
def _archives(world: World, name: str) -> None:
    outside = f"../{world.folder.name}/../{world.mark.name}"
    with gzip.GzipFile(outside, "wb", fileobj=(world.folder / "a.txt.gz").open("wb")) as file:
        file.write(b"some text " * 1000)
    with zipfile.ZipFile(world.folder / "b.zip", "w") as archive:
        archive.writestr(outside, "x")
    with tarfile.open(world.folder / "c.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(outside))
    (world.folder / "d.txt").write_bytes(world.pickled)
    (world.folder / "e.txt").write_bytes(world.objects())
    chosen = {"gzip": "a.txt.gz", "zip": "b.zip", "tar": "c.tar", "pickle": "d.txt", "array": "e.txt"}[name.split()[1]]
    world.command("tokenizer", "train", chosen, "--vocab-size", 270, "-o", "out")


@attempt("PostScript named like an image", "SVG named like an image")
def _images(world: World, name: str) -> None:
    from attention_guidance.commands.media.images import read_images

    gs = world.folder / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {world.mark}\n")
    gs.chmod(0o755)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    content = script if "Post" in name else b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>"
    (world.folder / "a.png").write_bytes(content)
    os.environ["PATH"] = f"{world.folder}:{os.environ['PATH']}"
    with suppress(GuidanceError):
        read_images([world.folder / "a.png"], 8)


@attempt("a link to outside for a result", "a link to outside for a result's part", "a link to outside for figures")
def _links(world: World, name: str) -> None:
    """What a command writes must not go through a link that the folder came with."""
    out = world.folder / "out"
    out.mkdir()
    link = {"result": "census.json", "part": "census.json.partial", "figures": "figures"}[name.split()[-1]]
    (out / link).symlink_to(world.mark)
    world.command("census", world.run, "--sequences", 4, "--overwrite", "-o", out)


@attempt("templates in names", "mathtext in names", "formats in names")
def _names(world: World, name: str) -> None:
    text = {
        "templates": _JINJA.format(mark="x"),
        "mathtext": r"$\write18{touch x}$",
        "formats": "{0.__class__.__init__.__globals__}%(x)s%n",
    }[name.split()[0]]
    run = world.run.rename(world.folder / text.replace("/", "-"))
    world.command("report", run, "--text", world.arguments[0], "--sequences", 4, "-o", "page", "--sentences", text)
