"""Attempts to run code from texts, tables, images, links and names; see `attempts`."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from contextlib import suppress

from attempts import JINJA, World, attempt

from attention_guidance.errors import GuidanceError


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
    world.command("tokenizer", "train", "train.parquet", "--vocab-sizes", 270, "-o", "out")
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
    world.command("tokenizer", "train", chosen, "--vocab-sizes", 270, "-o", "out")


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
        "templates": JINJA.format(mark="x"),
        "mathtext": r"$\write18{touch x}$",
        "formats": "{0.__class__.__init__.__globals__}%(x)s%n",
    }[name.split()[0]]
    run = world.run.rename(world.folder / text.replace("/", "-"))
    world.command("report", run, "--text", world.arguments[0], "--sequences", 4, "-o", "page", "--sentence", text)
