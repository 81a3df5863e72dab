"""Attempts to run code from a received run: its checkpoints, settings and other files; see `attempts`."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from attempts import MAPS, THEIRS, World, attempt, code_in

from attention_guidance.commands.pretraining.loop.trainer import StepTimer
from attention_guidance.commands.pretraining.preparation.text import _packed
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.errors import GuidanceError


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
    code_in(world)
    state = {"theirs.Callback": {"args": {"x": 1}, "attributes": {}}, "os.system": [{"args": {"command": "x"}}]}
    file = world.checkpoint / "trainer_state.json"
    world.edit(file, stateful_callbacks=json.loads(file.read_text())["stateful_callbacks"] | state)
    world.resume()


@attempt("auto_map of a checkpoint", "auto_map of a run's tokenizer")
def _resumed_maps(world: World, name: str) -> None:
    code = THEIRS.format(code=world.code)
    for folder in (world.checkpoint, world.run / "tokenizer"):
        (folder / "theirs.py").write_text(code)
        values: dict[str, Any] = {"auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]}}
        world.edit(folder / "tokenizer_config.json", **values)
    if "checkpoint" in name:
        maps = {auto: f"theirs.{of}" for auto, of in MAPS.items()}
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
    code_in(world)
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
    code_in(world)
    folder = world.run / "model"
    world.edit(folder / "config.json", model_type="theirs", auto_map={a: f"theirs.{b}" for a, b in MAPS.items()})
    values = {"auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]}, "tokenizer_class": "Theirs"}
    world.edit(folder / "tokenizer_config.json", **values)
    field = {"tokenizer": "tokenizer", "model": "init_from", "configuration": "arch_config"}[name.split()[1]]
    given = str(folder / "config.json" if field == "arch_config" else folder)
    world.settings(**{field: given, "vocab_size": None})


@attempt("--heads", "--schedule", "--max-time", "--token-class", "--loss", "--backend", "--preset")
def _language(world: World, name: str) -> None:
    value = f"{'x=' if name == '--token-class' else ''}__import__('os').system('touch {world.mark}')"
    world.command("pretrain", *world.arguments, "--max-steps", 1, name, value, "-o", "out")
